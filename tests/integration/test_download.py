"""`python -m serve.weights download` against a local server that speaks the hub's protocol."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save

from serve.catalogue import MINIATURE, SD_V1
from serve.errors import WeightsError
from serve.miniature import WEIGHTS_DIR
from serve.own_variants import read_catalogue, with_entries
from serve.pipelines.pipeline import Pipeline
from serve.variants import Family
from serve.weights.__main__ import main
from serve.weights.check import check_family
from serve.weights.manifest import read_manifest
from tests.commands import run_main
from tests.fakes import generation
from tests.hub import Hub, Repository, published_from, serving
from tests.machine import HANG_S, ROOT, free_port
from tests.pictures import difference, draw
from tests.safety import ALWAYS, sd_v1_with_checker

ALL = list(SD_V1.default_variants)
SD, BK, TAESD = "CompVis/stable-diffusion-v1-4", "nota-ai/bk-sdm-small", "sayakpaul/taesd-diffusers"
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub(published_from(WEIGHTS_DIR))) as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "sd-v1"


def command(hub: Hub, folder: Path, *arguments: str, **environment: str) -> dict[str, Any]:
    """The command line with a cache of its own, as a user of this hub would have it."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder.with_name("hf"))}
    return {
        "args": [sys.executable, "-m", "serve.weights", "download", str(folder), *arguments],
        "cwd": ROOT,
        "env": {**inherited, **home, **environment},
        "stdout": subprocess.PIPE,
        "text": True,
    }


def download(
    hub: Hub, folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        **command(hub, folder, *arguments, **environment), stderr=subprocess.PIPE, timeout=HANG_S
    )


def downloaded(hub: Hub, folder: Path, *arguments: str, **environment: str) -> str:
    done = download(hub, folder, *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(hub: Hub, folder: Path, *arguments: str, **environment: str) -> str:
    done = download(hub, folder, *arguments, **environment)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_was_downloaded_draws_what_was_published(hub: Hub, folder: Path) -> None:
    downloaded(hub, folder)
    check_family(folder, SD_V1, ALL, hashes=True)
    asked = generation(variant="distilled-tiny-vae", num_inference_steps=3)
    pictures = []
    for family, path in ((SD_V1, folder), (MINIATURE, WEIGHTS_DIR)):
        pipe = Pipeline.load([family.variants["distilled-tiny-vae"]], path, "cpu")
        pictures.append(draw(pipe, asked))
    assert difference(*pictures) == 0


def test_only_what_the_variants_need_is_asked_for_and_once(hub: Hub, folder: Path) -> None:
    downloaded(hub, folder)
    assert set(files_in(folder)) - {"manifest.json"} == {
        path
        for path in files_in(WEIGHTS_DIR)
        if path.split("/")[0] in SD_V1.components(SD_V1.default_variants)
    }
    assert not [path for path in hub.gets if path.endswith((".bin", ".ckpt", ".md"))]
    assert not [path for path in hub.gets if path.endswith("model.safetensors")]
    # Two repositories have a `unet/`; everything else is sent once, shared or not.
    shared = {"unet/config.json", UNET}
    assert all(count == (2 if path in shared else 1) for path, count in hub.gets.items())


def test_one_variant_brings_its_own_components_only(hub: Hub, folder: Path) -> None:
    downloaded(hub, folder, "--variants", "distilled-tiny-vae")
    assert set(read_manifest(folder).components) == {
        "tokenizer", "text_encoder", "scheduler", "unet_distilled", "vae_tiny",
    }  # fmt: skip
    check_family(folder, SD_V1, ["distilled-tiny-vae"])
    downloaded(hub, folder, "--variants", "original")
    check_family(folder, SD_V1, ["original", "distilled-tiny-vae", "distilled"])
    assert hub.gets["text_encoder/model.fp16.safetensors"] == 1


def test_the_safety_checker_comes_only_when_asked_for_and_is_held_to_the_manifest(
    folder: Path, tmp_path: Path
) -> None:
    published = published_from(sd_v1_with_checker(tmp_path / "published", ALWAYS))
    of_the_checker = {
        "safety_checker/config.json",
        "safety_checker/model.fp16.safetensors",
        "feature_extractor/preprocessor_config.json",
    }
    with serving(Hub(published)) as hub:
        downloaded(hub, folder)
        assert not of_the_checker & set(hub.gets)
        check_family(folder, SD_V1, ALL)
        with pytest.raises(WeightsError) as caught:
            check_family(folder, SD_V1, ALL, safety_checker=True)
        assert caught.value.message == (
            f"safety_checker: is on, but {folder / 'safety_checker'} is missing; "
            f"`make weights FAMILY=sd-v1 DIR={folder} ARGS=--safety-checker` downloads it, "
            "or turn it off"
        )
        before = hub.gets.total()
        downloaded(hub, folder, "--safety-checker")
        assert hub.gets.total() == before + len(of_the_checker)
        assert of_the_checker <= set(hub.gets)
        check_family(folder, SD_V1, ALL, safety_checker=True, hashes=True)
        origins = {part.origin.revision for part in read_manifest(folder).components.values()}
        assert origins == {hub.repositories[name].sha for name in (SD, BK, TAESD)}
        path = folder / "safety_checker/model.fp16.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"x")
        assert f"{path}: its sha256 is" in run_main(main, "verify", folder).stderr
        with pytest.raises(WeightsError, match=r"safety_checker.*its sha256 is"):
            check_family(folder, SD_V1, ALL, safety_checker=True, hashes=True)
        # Who doesn't ask for it isn't held up by it.
        check_family(folder, SD_V1, ALL, hashes=True)


def test_full_precision_is_taken_where_there_is_no_fp16(hub: Hub, folder: Path) -> None:
    files = hub.repositories[BK].files
    files["unet/diffusion_pytorch_model.safetensors"] = files.pop(UNET)
    downloaded(hub, folder, "--variants", "distilled")
    assert (folder / "unet_distilled/diffusion_pytorch_model.safetensors").is_file()
    check_family(folder, SD_V1, ["distilled"])


def test_the_manifest_names_repository_commit_bytes_sha256_and_licence(
    hub: Hub, folder: Path
) -> None:
    downloaded(hub, folder)
    components = json.loads((folder / "manifest.json").read_text())["components"]
    assert components["unet_distilled"]["origin"] == {
        "kind": "hub",
        "licence": "CreativeML OpenRAIL-M",
        "repository": BK,
        "revision": hub.repositories[BK].sha,
    }
    assert components["vae_tiny"]["origin"]["licence"] == "MIT"
    assert components["vae_tiny"]["origin"]["revision"] == hub.repositories[TAESD].sha
    for name, component in components.items():
        for file, pinned in component["files"].items():
            assert pinned["bytes"] == (folder / name / file).stat().st_size
            assert len(pinned["sha256"]) == 64


def test_a_connection_that_is_cut_goes_on_where_it_stopped(hub: Hub, folder: Path) -> None:
    # The client writes what it gets by 10 MiB: more than that must have arrived.
    padded = save({"padding": np.zeros(40 * 2**20, np.uint8)})
    hub.repositories[SD].files[UNET] = padded
    hub.cut_once = {UNET}
    downloaded(hub, folder, "--variants", "original")
    assert hub.ranges == [f"bytes={20 * 2**20}-"]
    check_family(folder, SD_V1, ["original"], hashes=True)


def test_a_run_that_is_killed_keeps_what_is_complete(hub: Hub, folder: Path) -> None:
    hub.stalled = {UNET}
    with subprocess.Popen(**command(hub, folder), stderr=subprocess.PIPE) as process:
        assert hub.stalling.wait(HANG_S)
        process.kill()
    hub.stalled, complete = set(), set(hub.gets) - {UNET, "unet/config.json"}
    assert "text_encoder/model.fp16.safetensors" in complete
    downloaded(hub, folder)
    assert all(hub.gets[path] == 1 for path in complete)
    check_family(folder, SD_V1, ALL, hashes=True)


def test_one_download_at_a_time_into_a_folder(hub: Hub, folder: Path) -> None:
    hub.stalled = {UNET}
    with subprocess.Popen(**command(hub, folder), stderr=subprocess.PIPE) as process:
        assert hub.stalling.wait(HANG_S)
        assert "another command is writing into it" in refused(hub, folder)
        process.kill()


def test_a_second_run_asks_for_nothing_and_a_damaged_file_is_repaired(
    hub: Hub, folder: Path
) -> None:
    downloaded(hub, folder)
    before, gets = files_in(folder), hub.gets.total()
    shutil.rmtree(folder.with_name("hf"))
    assert "complete" in downloaded(hub, folder)
    assert hub.gets.total() == gets
    path = folder / "vae_tiny/diffusion_pytorch_model.fp16.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    downloaded(hub, folder)
    assert hub.gets.total() == gets + 1
    assert files_in(folder) == before


def test_later_downloads_are_held_to_the_manifest(hub: Hub, folder: Path) -> None:
    downloaded(hub, folder, "--variants", "distilled-tiny-vae")
    published = hub.repositories[TAESD]
    name = "diffusion_pytorch_model.fp16.safetensors"
    shutil.rmtree(folder.with_name("hf"))
    (folder / "vae_tiny" / name).unlink()
    published.files[name] = published.files[name][:-1] + b"x"
    # The pinned commit is gone, and a mirror with other bytes must not take its place.
    assert "has no revision" in refused(hub, folder, "--variants", "distilled-tiny-vae")
    hub.repositories["me/taesd"] = published
    complaint = refused(
        hub, folder, "--variants", "distilled-tiny-vae", "--mirror", f"{TAESD}=me/taesd"
    )
    assert "is expected" in complaint
    downloaded(hub, folder, "--variants", "distilled-tiny-vae", "--update")
    assert read_manifest(folder).components["vae_tiny"].origin.revision == published.sha
    check_family(folder, SD_V1, ["distilled-tiny-vae"], hashes=True)


def test_what_arrives_damaged_is_dropped_and_the_next_try_succeeds(hub: Hub, folder: Path) -> None:
    hub.damaged = {UNET}
    complaint = refused(hub, folder, "--variants", "original")
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in complaint
    assert not (folder / UNET).exists()
    hub.damaged = set()
    downloaded(hub, folder, "--variants", "original")
    check_family(folder, SD_V1, ["original"], hashes=True)


def test_a_mirror_takes_a_repositorys_place(hub: Hub, folder: Path) -> None:
    hub.repositories["me/small"] = hub.repositories.pop(BK)
    mirrors = json.dumps({BK: "me/small"})
    downloaded(hub, folder, "--variants", "distilled", DSD_MIRRORS=mirrors)
    assert read_manifest(folder).components["unet_distilled"].origin.repository == "me/small"


def test_a_renamed_repository_is_followed_and_told(hub: Hub, folder: Path) -> None:
    hub.repositories["new/small"] = hub.repositories.pop(BK)
    hub.renamed = {BK: "new/small"}
    assert "now called new/small" in downloaded(hub, folder, "--variants", "distilled")
    assert read_manifest(folder).components["unet_distilled"].origin.repository == "new/small"
    (folder / "unet_distilled/config.json").unlink()
    downloaded(hub, folder, "--variants", "distilled")
    check_family(folder, SD_V1, ["distilled"], hashes=True)


def test_components_of_one_repository_come_from_one_commit(hub: Hub, folder: Path) -> None:
    downloaded(hub, folder, "--variants", "distilled")
    first = hub.repositories[SD].sha
    hub.repositories[SD].files["README.md"] = b"moved on"
    hub.old_commits = {first}
    downloaded(hub, folder)
    components = read_manifest(folder).components
    assert components["unet"].origin.revision == components["vae"].origin.revision == first


def test_the_token_and_the_cache_are_those_of_the_hubs_users(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    hub.repositories[SD].gated, hub.repositories[SD].token = True, "secret"
    cache = tmp_path / "cache"
    output = downloaded(
        hub, folder, "--variants", "original", HF_TOKEN="secret", HF_HUB_CACHE=str(cache)
    )
    assert "Bearer secret" in hub.tokens
    assert "secret" not in output + (folder / "manifest.json").read_text()
    gets = hub.gets.total()
    downloaded(hub, tmp_path / "other", HF_TOKEN="secret", HF_HUB_CACHE=str(cache))
    # The second folder finds in the cache what the first has brought, the previews' VAE included.
    assert hub.gets.total() == gets + len(hub.repositories[BK].files) - 4


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"gated": True}, "gated; accept its licence at", id="gated"),
        pytest.param({"missing": True}, f"{SD}: not found at http://127", id="missing"),
        pytest.param({"down": True}, "answered: Server error '503", id="down"),
        pytest.param({"pickles": True}, "as pickles only", id="pickles-only"),
        pytest.param({"config": True}, "has no config.json", id="no-config"),
    ],
)
def test_what_cannot_be_had_is_told_with_what_to_do(
    hub: Hub, folder: Path, change: dict[str, bool], complaint: str
) -> None:
    if change.get("gated"):
        hub.repositories[SD].gated = True
    if change.get("missing"):
        del hub.repositories[SD]
    if change.get("pickles"):
        files = hub.repositories[SD].files
        for name in [path for path in files if path.endswith(".safetensors")]:
            del files[name]
    if change.get("config"):
        del hub.repositories[SD].files["unet/config.json"]
    hub.down = change.get("down", False)
    assert complaint in refused(hub, folder, "--variants", "original")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--mirror", "x"], "mirror: 'x' was given", id="mirror"),
        pytest.param(["--mirror", "a/b=c/d"], "mirror: 'a/b' was given; sd-v1 uses", id="unknown"),
        pytest.param(["--mirror", f"{SD}=../x/y"], "repository: '../x/y' was given", id="path"),
        pytest.param(["--variants", "huge"], "variants: 'huge' was given", id="variant"),
        pytest.param(["--family", "miniature"], "nothing to download", id="shipped"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    folder: Path, arguments: list[str], complaint: str
) -> None:
    done = run_main(main, "download", folder, *arguments)
    assert done.returncode == 1
    assert complaint in done.stderr.splitlines()[-1]


def test_a_mirror_that_is_missing_is_named(hub: Hub, folder: Path) -> None:
    assert "not found" in refused(hub, folder, "--mirror", f"{SD}=a/b@gone")


@pytest.mark.parametrize("mirrors", ["{", '{"a": 1}'])
def test_bad_mirrors_in_the_environment_are_refused_by_name(
    folder: Path, mirrors: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSD_MIRRORS", mirrors)
    done = run_main(main, "download", folder)
    assert done.returncode == 1
    assert "DSD_MIRRORS: must be a JSON object" in done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = run_main(main, "download", tmp_path / "file" / "sd-v1")
    assert done.returncode == 1
    assert f"{tmp_path / 'file'}" in done.stderr


def test_a_hub_that_is_not_there_is_told(hub: Hub, folder: Path) -> None:
    nowhere = f"http://127.0.0.1:{free_port()}"
    assert f"the connection to {nowhere} failed" in refused(hub, folder, HF_ENDPOINT=nowhere)


def test_offline_is_told_as_such(hub: Hub, folder: Path) -> None:
    assert "HF_HUB_OFFLINE is set" in refused(hub, folder, HF_HUB_OFFLINE="1")


def test_a_folder_with_other_files_is_left_alone(hub: Hub, folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert "choose an empty folder" in refused(hub, folder)
    assert files_in(folder) == {"thesis.txt": b"mine"}


def test_names_that_point_elsewhere_never_reach_the_disk(
    hub: Hub, folder: Path, tmp_path: Path
) -> None:
    outside = ("unet/../../../escaped.safetensors", "/tmp/escaped", "unet/..\\escaped")
    for repository in hub.repositories.values():
        repository.files |= dict.fromkeys(outside, b"escaped")
    downloaded(hub, folder)
    assert not [path for path in tmp_path.rglob("*") if "escaped" in path.name]
    assert not [path for path in hub.gets if "escaped" in path]


def test_verify_names_what_differs(hub: Hub, folder: Path) -> None:
    downloaded(hub, folder)
    assert run_main(main, "verify", folder).returncode == 0
    with (folder / UNET).open("r+b") as content:
        content.seek(-1, os.SEEK_END)
        content.write(b"\xff")
    (folder / "vae/config.json").unlink()
    (folder / "notes.txt").write_text("x")
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    done = run_main(main, "verify", folder)
    assert done.returncode == 1
    assert f"{folder / UNET}: its sha256 is" in done.stderr
    assert f"{folder / 'vae/config.json'}: missing" in done.stderr
    assert f"{folder / 'notes.txt'}: unknown" in done.stderr
    assert "diffusion_pytorch_model.bin: looks like a pickle" in done.stderr
    assert "5 file(s) differ" in done.stderr


@pytest.mark.parametrize(
    ("variant", "more"),
    [("distilled", "--safety-checker"), ("my-style", "--catalogue my.yaml --update")],
)
def test_make_weights_is_that_command(variant: str, more: str) -> None:
    arguments = [f"VARIANT={variant}", "DIR=/data/sd", f"ARGS={more}"]
    shown = subprocess.run(
        ["make", "--dry-run", "weights", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = f"-m serve.weights download /data/sd --family sd-v1 --variants {variant}"
    assert f"{told} {more}" in shown


def test_nothing_but_one_repository_is_asked_when_one_is_replaced_whole(
    hub: Hub, folder: Path
) -> None:
    everything = Repository({})
    for repository in (BK, SD):
        everything.files |= hub.repositories[repository].files
    # The previews' VAE lies at its repository's top, so no other can hold it, too.
    hub.repositories = {"me/all": everything, TAESD: hub.repositories[TAESD]}
    mirrors = [f"--mirror={SD}=me/all", f"--mirror={BK}=me/all"]
    downloaded(hub, folder, "--variants", "original,distilled", *mirrors)
    check_family(folder, SD_V1, ["original", "distilled"])


LCM_LORA = "latent-consistency/lcm-lora-sdv1-5"
LORA_FILE = "pytorch_lora_weights.safetensors"
# As the published file names them, and the layers that they belong to.
LORA_LAYERS = {
    "mid_block_attentions_0_transformer_blocks_0_attn1_to_q": (
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    ),
    "mid_block_attentions_0_proj_in": "mid_block.attentions.0.proj_in.weight",
    "mid_block_resnets_0_conv1": "mid_block.resnets.0.conv1.weight",
}


def a_lora(unet: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """A LoRA's file, and what it adds to each layer."""
    rng, rank, alpha = np.random.default_rng(0), 4, 2.0
    tensors, added = {}, {}
    for short, name in LORA_LAYERS.items():
        weight = unet[name]
        down = rng.normal(0, 0.1, (rank, *weight.shape[1:])).astype(np.float32)
        up = rng.normal(0, 0.1, (weight.shape[0], rank)).astype(np.float32)
        extra = (1,) * (weight.ndim - 2)
        added[name] = alpha / rank * (up @ down.reshape(rank, -1)).reshape(weight.shape)
        tensors[f"lora_unet_{short}.lora_down.weight"] = down
        tensors[f"lora_unet_{short}.lora_up.weight"] = up.reshape(*up.shape, *extra)
        tensors[f"lora_unet_{short}.alpha"] = np.array(alpha, np.float32)
    return save(tensors), added


def test_a_lora_is_merged_when_it_is_fetched(hub: Hub, folder: Path) -> None:
    before = load_file(WEIGHTS_DIR / UNET)
    content, added = a_lora(before)
    hub.repositories[LCM_LORA] = Repository({LORA_FILE: content})
    told = downloaded(hub, folder, "--variants", "original-lcm")
    assert "merging it into a copy of unet" in told
    check_family(folder, SD_V1, ["original-lcm"], hashes=True)
    merged = load_file(folder / "unet_lcm/diffusion_pytorch_model.fp16.safetensors")
    assert merged.keys() == before.keys()
    for name, tensor in merged.items():
        expected = before[name].astype(np.float32) + added.get(name, 0)
        assert np.array_equal(tensor, expected.astype(np.float16)) or (
            name in added and np.allclose(tensor, expected, atol=2e-3)
        )
    origin = read_manifest(folder).components["unet_lcm"].origin
    assert (origin.kind, origin.repository) == ("merged", SD)
    assert origin.lora is not None
    assert (origin.lora.repository, origin.lora.revision) == (
        LCM_LORA,
        hub.repositories[LCM_LORA].sha,
    )
    assert origin.licence == "CreativeML OpenRAIL-M and CreativeML OpenRAIL++-M"
    # What servers read is an ordinary folder.
    pipe = Pipeline.load([SD_V1.variants["original-lcm"]], folder, "cpu")
    asked = generation(
        variant="original-lcm", num_inference_steps=2, scheduler="lcm", guidance_scale=1.0
    )
    assert draw(pipe, asked).std() > 5
    # Once it is there nothing is done again; a damaged file is merged anew.
    assert "unet_lcm: complete" in downloaded(hub, folder, "--variants", "original-lcm")
    (folder / "unet_lcm/config.json").write_text("{}")
    assert "merging" in downloaded(hub, folder, "--variants", "original-lcm")
    check_family(folder, SD_V1, ["original-lcm"], hashes=True)


def test_a_lora_for_another_unet_is_refused(hub: Hub, folder: Path) -> None:
    wrong = {
        "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": np.zeros((4, 9, 3, 3), np.float32),
        "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": np.zeros((9, 4, 1, 1), np.float32),
        "lora_unet_mid_block_resnets_0_conv1.alpha": np.array(4.0, np.float32),
    }
    hub.repositories[LCM_LORA] = Repository({LORA_FILE: save(wrong)})
    message = refused(hub, folder, "--variants", "original-lcm")
    assert "doesn't fit the UNet of" in message
    text = save({"lora_te_text_model_x.lora_down.weight": np.zeros((4, 9), np.float32)})
    hub.repositories[LCM_LORA] = Repository({LORA_FILE: text})
    assert "doesn't fit the UNet of" in refused(hub, folder, "--variants", "original-lcm")
    assert not (folder / "unet_lcm").exists()
    hub.repositories[LCM_LORA] = Repository({"README.md": b"nothing"})
    message = refused(hub, folder, "--variants", "original-lcm")
    assert message.endswith(f"{LCM_LORA}: has no {LORA_FILE}")


def test_a_lora_that_arrives_damaged_is_not_merged(hub: Hub, folder: Path) -> None:
    content, _ = a_lora(load_file(WEIGHTS_DIR / UNET))
    hub.repositories[LCM_LORA] = Repository({LORA_FILE: content})
    hub.damaged = {LORA_FILE}
    assert LORA_FILE in refused(hub, folder, "--variants", "original-lcm")
    assert not (folder / "unet_lcm").exists()
    hub.damaged = set()
    assert "merging" in downloaded(hub, folder, "--variants", "original-lcm")


def own(folder: Path, **parts: dict[str, str]) -> tuple[list[str], Family]:
    """Arguments for `my-style` over `original` with other parts, and the family with it."""
    path = folder.with_name("my.yaml")
    path.write_text(yaml.safe_dump([{"name": "my-style", "base": "original", **parts}]))
    arguments = ["--catalogue", str(path), "--variants", "my-style"]
    return arguments, with_entries(SD_V1, read_catalogue(path))


def part_of(name: str, prefix: str) -> dict[str, bytes]:
    return {f"{prefix}{path}": content for path, content in files_in(WEIGHTS_DIR / name).items()}


def test_an_own_variants_components_come_from_their_own_repositories(
    hub: Hub, folder: Path
) -> None:
    # One repository at two revisions, one with a mirror, and one with its files at the top.
    hub.repositories["me/style"] = Repository(part_of("unet", "unet/") | part_of("vae", "v/"))
    hub.repositories["me/mirror"] = Repository(part_of("text_encoder", "text_encoder/"))
    hub.repositories["me/previews"] = Repository(part_of("vae_tiny", ""))
    hub.old_commits = {"v1", "v2"}
    arguments, family = own(
        folder,
        unet={"repository": "me/style", "revision": "v1", "licence": "mine"},
        vae={"repository": "me/style", "revision": "v2", "subfolder": "v"},
        text_encoder={"repository": "me/words"},
        preview_vae={"repository": "me/previews", "subfolder": "", "class": "AutoencoderTiny"},
    )
    arguments += ["--mirror", "me/words=me/mirror"]
    told = downloaded(hub, folder, *arguments)
    assert "licences CreativeML OpenRAIL-M, mine, unknown" in told
    manifest = check_family(folder, family, ["my-style"], hashes=True)
    origins = manifest.origins(family.variants["my-style"])
    assert {name: (made.repository, made.revision, made.licence) for name, made in origins.items()
            if made.repository != SD} == {
        "unet": ("me/style", "v1", "mine"),
        "vae": ("me/style", "v2", "unknown"),
        "text_encoder": ("me/mirror", hub.repositories["me/mirror"].sha, "unknown"),
        "preview_vae": ("me/previews", hub.repositories["me/previews"].sha, "unknown"),
    }  # fmt: skip
    # It has neither the built-in UNet nor the built-in VAEs.
    assert set(manifest.components) == set(family.components(["my-style"]))
    gets = hub.gets.total()
    told = downloaded(hub, folder, *arguments)
    assert "unet_my_style: complete, me/style at v1, as pinned" in told
    assert hub.gets.total() == gets


def test_a_run_without_the_catalogue_leaves_own_components_and_update_brings_new_ones(
    hub: Hub, folder: Path
) -> None:
    hub.repositories["me/style"] = style = Repository(part_of("unet", "unet/"))
    arguments, family = own(folder, unet={"repository": "me/style"})
    downloaded(hub, folder, *arguments)
    first, before = style.sha, files_in(folder / "unet_my_style")
    changed = before["config.json"] + b"\n"
    style.files["unet/config.json"] = changed
    downloaded(hub, folder, "--update")
    assert files_in(folder / "unet_my_style") == before
    assert read_manifest(folder).components["unet_my_style"].origin.revision == first
    check_family(folder, family, ["original", "my-style"], hashes=True)
    downloaded(hub, folder, *arguments, "--update")
    assert files_in(folder / "unet_my_style") == before | {"config.json": changed}
    assert read_manifest(folder).components["unet_my_style"].origin.revision == style.sha
    (folder / "unet_my_style/config.json").write_text("{}")
    assert (
        f"{folder / 'unet_my_style/config.json'}: has 2" in run_main(main, "verify", folder).stderr
    )


def test_a_local_component_is_left_as_it_is_once_it_is_pinned(hub: Hub, folder: Path) -> None:
    arguments, family = own(folder, unet={"folder": "unet_my_style", "licence": "mine"})
    message = refused(hub, folder, *arguments)
    assert f"{folder / 'unet_my_style'}: missing" in message
    assert "serve.weights convert" in message
    assert files_in(folder) == {}
    downloaded(hub, folder)
    before = read_manifest(folder)
    shutil.copytree(WEIGHTS_DIR / "unet", folder / "unet_my_style")
    adopt = f"python -m serve.weights adopt {folder} --catalogue FILE"
    told = f"{folder / 'unet_my_style'}: not in manifest.json; `{adopt}` pins it"
    assert told in refused(hub, folder, *arguments)
    with pytest.raises(WeightsError, match=r"unet_my_style/config.json: unknown .* adopt"):
        check_family(folder, family, ["my-style"])
    # Half a component that `download` brings isn't adopted.
    (folder / "vae_my_style").mkdir()
    own(folder, unet={"folder": "unet_my_style", "licence": "mine"}, vae={"repository": "me/vae"})
    done = run_main(main, "adopt", folder, *arguments[:2])
    assert done.stdout == f"Pinned unet_my_style in {folder}\n"
    adopted = read_manifest(folder)
    assert adopted.components.items() > before.components.items()
    origin = adopted.components["unet_my_style"].origin
    assert (origin.kind, origin.licence) == ("local", "mine")
    for more in ([], arguments[:2]):
        assert "that isn't pinned" in run_main(main, "adopt", folder, *more).stderr
    own(folder, unet={"folder": "unet_my_style", "licence": "mine"})
    gets = hub.gets.total()
    assert "unet_my_style: local, as it is" in downloaded(hub, folder, *arguments, "--update")
    downloaded(hub, folder)
    assert hub.gets.total() == gets
    assert read_manifest(folder).components["unet_my_style"] == adopted.components["unet_my_style"]
    check_family(folder, family, ["my-style", "original"], hashes=True)
    (folder / "unet_my_style/config.json").unlink()
    assert "unet_my_style/config.json: missing" in run_main(main, "verify", folder).stderr


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        pytest.param(
            {"vae/config.json": b'{"_class_name": "AutoencoderTiny"}'},
            "class: me/vae/vae/config.json holds a AutoencoderTiny; AutoencoderKL is expected; an "
            "entry's `class`",
            id="another-class",
        ),
        pytest.param(
            {"vae/config.json": b"[]"}, "me/vae/vae/config.json: must hold a JSON", id="no-json"
        ),
        pytest.param(
            {
                "vae/config.json": b"{}",
                "vae/diffusion_pytorch_model.safetensors": None,
                "vae/diffusion_pytorch_model.bin": b"a pickle",
            },
            "me/vae/vae/: has its weights as pickles only",
            id="pickles-only",
        ),
    ],
)
def test_a_repository_that_is_not_what_the_entry_says_is_refused_before_its_weights(
    hub: Hub, folder: Path, files: dict[str, bytes | None], complaint: str
) -> None:
    given = {"vae/diffusion_pytorch_model.safetensors": b"weights", **files}
    published = {name: content for name, content in given.items() if content is not None}
    hub.repositories["me/vae"] = Repository(published)
    arguments, _ = own(folder, vae={"repository": "me/vae"})
    assert complaint in refused(hub, folder, *arguments)
    assert "vae/diffusion_pytorch_model.safetensors" not in hub.gets
    assert not (folder / "vae_my_style").exists()


def test_what_an_entry_can_correct_is_named(hub: Hub, folder: Path) -> None:
    hub.repositories["me/flat"] = Repository(part_of("unet", ""))
    arguments, _ = own(folder, unet={"repository": "me/flat"})
    assert "me/flat/unet/: is empty, but config.json lies at the repository's top" in (
        message := refused(hub, folder, *arguments)
    )
    assert message.endswith('set `subfolder: ""`')
    arguments, _ = own(folder, unet={"repository": "me/flat", "revision": "gone"})
    assert "has no revision 'gone'" in (message := refused(hub, folder, *arguments))
    assert message.endswith("or correct `revision` in the catalogue")
    mirrored = refused(hub, folder, *arguments, "--mirror", "me/flat=me/flat@lost")
    assert "has no revision 'lost'" in mirrored
    assert "catalogue" not in mirrored


def test_a_bad_catalogue_is_refused_by_name(folder: Path) -> None:
    path = folder.with_name("my.yaml")
    for content, complaint in (
        ("- name: x", f"catalogue: {path}: entry 1: base: missing"),
        ("- {name: x, base: y}", "catalogue: x: base: 'y' was given"),
    ):
        path.write_text(content)
        for command in ("download", "random", "adopt"):
            done = run_main(main, command, folder, "--catalogue", path)
            assert (done.returncode, complaint in done.stderr) == (1, True)
