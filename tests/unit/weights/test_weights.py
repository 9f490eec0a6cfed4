import json
import pickle
import shutil
from pathlib import Path

import pytest

from serve.catalogue import MINIATURE, SD_V1
from serve.errors import WeightsError
from serve.miniature import WEIGHTS_DIR
from serve.own_variants import CatalogueEntry, with_entries
from serve.pipelines.pipeline import Pipeline
from serve.variants import Family
from serve.weights.__main__ import main
from serve.weights.check import check_family
from serve.weights.layout import architecture_dir, family_dir, fp32_bytes
from serve.weights.manifest import read_manifest
from tests.commands import Done, run_main
from tests.safety import NEVER, sd_v1_with_checker, write_stand_in

ALL = list(MINIATURE.default_variants)
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


class Canary:
    """Loading its pickle makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


def cli(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["serve.weights", *map(str, arguments)])
        return main()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS_DIR, tmp_path / "family"))


def refusal(folder: Path, variants: list[str] = ALL) -> str:
    with pytest.raises(WeightsError) as caught:
        check_family(folder, MINIATURE, variants)
    return caught.value.message


@pytest.mark.parametrize("name", [UNET, "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert str((folder / name).parent) in refusal(folder)


def test_a_missing_component_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "vae_tiny")
    assert "vae_tiny: missing" in refusal(folder)


def test_what_brings_a_missing_component_is_named(tmp_path: Path) -> None:
    parts = {"unet": {"repository": "me/style"}, "vae": {"folder": "vae_mine"}}
    entries = [
        CatalogueEntry.model_validate({"name": name, "base": "original", name: parts[name]})
        for name in parts
    ]
    family = with_entries(SD_V1, entries)
    for name in ("unet", "vae", "tiny-sd"):
        with pytest.raises(WeightsError) as caught:
            check_family(tmp_path, family, [name])
        command = f"`make weights FAMILY=sd-v1 DIR={tmp_path} VARIANT={name}"
        catalogue = "" if name == "tiny-sd" else ' ARGS="--catalogue FILE"'
        assert caught.value.message == (
            f"{tmp_path / 'tokenizer'}: missing; it must hold a CLIPTokenizer; "
            f"{command}{catalogue}` downloads it"
        )
    shutil.copytree(WEIGHTS_DIR, tmp_path, dirs_exist_ok=True)
    with pytest.raises(WeightsError, match=r"vae_mine: missing.*serve.weights convert.* adopt"):
        check_family(tmp_path, family, ["vae"])


def test_only_what_is_served_is_needed(folder: Path) -> None:
    shutil.rmtree(folder / "unet")
    check_family(folder, MINIATURE, ["distilled", "distilled-tiny-vae"])


@pytest.mark.parametrize("bytes_left", [0, 4, 1_000, -1])
def test_truncated_weights_are_named(folder: Path, bytes_left: int) -> None:
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:bytes_left])
    message = refusal(folder)
    assert str(path) in message
    assert "truncated or damaged" in message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param("{", "can't be read as JSON", id="broken"),
        pytest.param("[1]", "must hold a JSON object", id="no-object"),
        pytest.param("[" * 100_000, "can't be read as JSON", id="nested-without-end"),
    ],
)
@pytest.mark.parametrize("name", ["unet/config.json", "scheduler/scheduler_config.json"])
def test_a_config_that_is_not_a_json_object_is_named(
    folder: Path, name: str, content: str, complaint: str
) -> None:
    (folder / name).write_text(content)
    assert f"{folder / name}: {complaint}" in refusal(folder)


@pytest.mark.parametrize(
    "name",
    ["unet/diffusion_pytorch_model.bin", "model.ckpt", "vae/x.PT", "a/b/c.pth", "d.pkl"],
)
def test_a_pickle_anywhere_is_refused_and_never_loaded(
    folder: Path, tmp_path: Path, name: str
) -> None:
    canary = tmp_path / "canary"
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pickle.dumps(Canary(canary)))
    assert str(folder / name) in refusal(folder)
    assert not canary.exists()


# As files that a family folder must hold are named, so that no suffix tells.
@pytest.mark.parametrize(
    "name",
    [
        UNET,
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
    ],
)
def test_a_pickle_that_is_named_and_pinned_as_what_is_needed_never_runs(
    folder: Path, tmp_path: Path, name: str
) -> None:
    canary = tmp_path / "canary"
    pickled = pickle.dumps(Canary(canary))
    (folder / name).write_bytes(pickled)
    assert str(folder / name) in refusal(folder)
    (folder / "manifest.json").unlink()
    # What the check leaves to the loader is pinned as it is, and the loader must not unpickle.
    adopted = name == "tokenizer/tokenizer.json"
    assert cli("adopt", folder, "--family", "miniature") == (0 if adopted else 1)
    if adopted:
        check_family(folder, MINIATURE, ALL, hashes=True)
        with pytest.raises(Exception, match=r"utf-8|JSON"):
            Pipeline.load([MINIATURE.variants["original"]], folder, "cpu")
    else:
        assert str(folder / name) in refusal(folder)
    assert not canary.exists()
    pickle.loads(pickled)
    assert canary.exists()  # It would have shown.


def test_swapped_weights_are_named(folder: Path) -> None:
    shutil.copy(folder / UNET.replace("unet", "unet_distilled"), folder / UNET)
    assert f"{UNET}: has " in refusal(folder)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(b"", id="none"),
        pytest.param((2**63).to_bytes(8, "little") + b"{}", id="longer-than-any-file"),
        pytest.param((2**24).to_bytes(8, "little") + b"{}", id="longer-than-the-file"),
        pytest.param((2).to_bytes(8, "little") + b"{}", id="no-tensors"),
        pytest.param((8).to_bytes(8, "little") + b'{"a": 1}', id="no-tensor"),
        pytest.param((100_000).to_bytes(8, "little") + b"[" * 100_000, id="without-a-bottom"),
    ],
)
def test_a_safetensors_header_that_is_none_is_named(folder: Path, header: bytes) -> None:
    (folder / UNET).write_bytes(header)
    assert str(folder / UNET) in refusal(folder)


def test_a_file_that_the_manifest_does_not_know_is_refused(folder: Path) -> None:
    (folder / "unet/extra.json").write_text("{}")
    assert f"{folder / 'unet/extra.json'}: unknown" in refusal(folder)


def test_changed_bytes_are_found_when_hashes_are_asked_for(folder: Path) -> None:
    content = bytearray((folder / UNET).read_bytes())
    content[-1] ^= 1
    (folder / UNET).write_bytes(content)
    check_family(folder, MINIATURE, ALL)
    with pytest.raises(WeightsError, match=f"{UNET}: its sha256 is"):
        check_family(folder, MINIATURE, ALL, hashes=True)
    # A variant that doesn't read it isn't held up by it.
    check_family(folder, MINIATURE, ["distilled"], hashes=True)


@pytest.mark.parametrize("name", ["unet", "vae/config.json"])
def test_a_link_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{folder / name}: is a link" in refusal(folder)


def test_without_a_manifest_nothing_is_served_until_the_files_are_adopted(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert "python -m serve.weights adopt" in refusal(folder)
    assert cli("adopt", folder, "--family", "miniature") == 0
    manifest = check_family(folder, MINIATURE, ALL, hashes=True)
    assert {part.origin.kind for part in manifest.components.values()} == {"local"}
    assert cli("adopt", folder, "--family", "miniature") == 1


def adopt(folder: Path, *more: object) -> Done:
    return run_main(main, "adopt", folder, "--family", "miniature", *more)


def test_a_local_component_is_pinned_again_where_it_changed_and_dropped_where_it_is_gone(
    folder: Path, tmp_path: Path
) -> None:
    catalogue = tmp_path / "my.yaml"
    catalogue.write_text("- {name: my-style, base: original, unet: {folder: unet_my_style}}")
    mine, command = folder / "unet_my_style", f"weights adopt {folder} --family miniature"
    mine.mkdir()
    shutil.copy(folder / "unet/config.json", mine)
    # Half a folder isn't pinned.
    assert f"{mine}: has no .safetensors" in adopt(folder, "--catalogue", catalogue).stderr
    shutil.copytree(folder / "unet", mine, dirs_exist_ok=True)
    assert adopt(folder, "--catalogue", catalogue).returncode == 0
    shutil.copytree(folder / "unet_lcm", mine, dirs_exist_ok=True)
    (folder / "vae/config.json").write_text("{}")  # Shipped, so that it is never pinned again.
    (mine / "more.json").write_text("{}")
    told = run_main(main, "verify", folder).stderr
    assert told.count(f"pin its folder with `python -m serve.{command} --catalogue FILE`") == 2
    before = read_manifest(folder).components
    done = adopt(folder, "--catalogue", catalogue)
    assert done.stdout == "unet_my_style: pinned again\n"
    after = read_manifest(folder).components
    assert {name for name in after if after[name] != before[name]} == {"unet_my_style"}
    assert "isn't pinned as it is" in adopt(folder, "--catalogue", catalogue).stderr
    shutil.copytree(WEIGHTS_DIR / "vae", folder / "vae", dirs_exist_ok=True)
    shutil.rmtree(mine)
    told = run_main(main, "verify", folder).stderr
    assert f"{mine}: missing; put it back, or drop its pin with `python -m serve.{command}`" in told
    shutil.rmtree(folder / "vae")
    # As the catalogue no longer names it.
    assert adopt(folder).stdout == (
        "unet_my_style: dropped from manifest.json, as its folder is gone\n"
    )
    assert set(read_manifest(folder).components) == set(before) - {"unet_my_style"}


def test_a_retrained_component_of_an_adopted_family_is_pinned_again(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    assert cli("adopt", folder) == 0
    shutil.copytree(folder / "unet_distilled", folder / "unet", dirs_exist_ok=True)
    told = run_main(main, "verify", folder).stderr
    hint = f"if you changed it, pin its folder with `python -m serve.weights adopt {folder}`"
    assert f"{folder / UNET}: has " in told
    assert hint in told
    assert run_main(main, "adopt", folder).stdout == "unet: pinned again\n"
    # It has folders that aren't sd-v1's, which stay unknown.
    assert f"{folder / UNET}" not in run_main(main, "verify", folder).stderr


def test_weights_of_another_family_are_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="family 'miniature', not of 'sd-v1'"):
        check_family(folder, SD_V1, ALL)


@pytest.mark.parametrize(
    "name",
    ["../vae/config.json", "/etc/passwd", "a/b", "..", ".hidden", "a\\b", "x\0", "x\n", ""],
    ids=ascii,
)
@pytest.mark.parametrize("place", ["component", "file"])
def test_names_that_point_elsewhere_are_refused(folder: Path, name: str, place: str) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    components = content["components"]
    if place == "component":
        components[name] = components["vae"]
    else:
        components["vae"]["files"][name] = components["vae"]["files"]["config.json"]
    (folder / "manifest.json").write_text(json.dumps(content))
    assert "manifest.json: components" in refusal(folder)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"format": 2, "family": "miniature", "components": {}}'],
    ids=["empty", "list", "no-family", "another-format"],
)
def test_a_manifest_that_is_none_is_named(folder: Path, content: str) -> None:
    (folder / "manifest.json").write_text(content)
    assert str(folder / "manifest.json") in refusal(folder)


@pytest.mark.parametrize("family", [MINIATURE, SD_V1], ids=lambda family: family.name)
def test_what_is_shipped_is_what_its_manifest_says(family: Family) -> None:
    assert cli("verify", architecture_dir(family.name)) == 0


def test_memory_on_a_cpu_counts_fp16_twice() -> None:
    files = [
        path.stat().st_size
        for name in ("text_encoder", "unet", "vae", "vae_tiny")
        for path in (WEIGHTS_DIR / name).glob("*.safetensors")
    ]
    assert fp32_bytes(WEIGHTS_DIR, MINIATURE.variants["original"]) == 2 * sum(files)


def test_a_family_without_a_safety_checker_cannot_have_it_on() -> None:
    with pytest.raises(WeightsError, match=r"'original' of family 'miniature' has none"):
        check_family(WEIGHTS_DIR, MINIATURE, ["original"], safety_checker=True)


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        pytest.param("safety_checker/model.fp16.safetensors", "no .safetensors", id="weights"),
        pytest.param("safety_checker/config.json", "config.json: missing", id="configuration"),
        pytest.param(
            "feature_extractor/preprocessor_config.json",
            "preprocessor_config.json: missing",
            id="image-processor",
        ),
    ],
)
def test_a_safety_checker_that_is_incomplete_is_refused_where_it_is_on(
    tmp_path: Path, name: str, complaint: str
) -> None:
    folder = sd_v1_with_checker(tmp_path / "sd", NEVER)
    check_family(folder, SD_V1, ALL, safety_checker=True)
    (folder / name).unlink()
    with pytest.raises(WeightsError, match=complaint):
        check_family(folder, SD_V1, ALL, safety_checker=True)
    check_family(folder, SD_V1, ALL)


def test_a_safety_checker_of_ones_own_is_adopted_and_counted_where_it_is_on(
    folder: Path,
) -> None:
    (folder / "manifest.json").unlink()
    write_stand_in(folder, NEVER)
    assert cli("adopt", folder, "--family", "sd-v1") == 0
    assert {"safety_checker", "feature_extractor"} <= set(read_manifest(folder).components)
    variant = SD_V1.variants["original"]
    without, whole = (fp32_bytes(folder, variant, safety_checker=on) for on in (False, True))
    assert whole - without == 2 * (folder / "safety_checker/model.fp16.safetensors").stat().st_size


def test_real_weights_without_a_folder_are_an_error_not_the_miniature() -> None:
    with pytest.raises(WeightsError, match="weights_dir: not given"):
        family_dir("sd-v1", None)
    assert family_dir("miniature", None) == WEIGHTS_DIR


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        family_dir("sd-v1", tmp_path / "nowhere")
