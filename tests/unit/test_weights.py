import json
import pickle
import shutil
from pathlib import Path

import pytest

from serve.errors import WeightsError
from serve.miniature import WEIGHTS_DIR
from serve.variants import MINIATURE
from serve.weights import check_family, family_dir

ALL = list(MINIATURE.variants)
UNET = "unet/diffusion_pytorch_model.fp16.safetensors"


class Canary:
    """Loading its pickle makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.target,)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS_DIR, tmp_path / "family"))


def refusal(folder: Path, variants: list[str] = ALL) -> str:
    with pytest.raises(WeightsError) as caught:
        check_family(folder, MINIATURE, variants)
    return caught.value.message


def test_the_shipped_family_passes() -> None:
    check_family(WEIGHTS_DIR, MINIATURE, ALL)


@pytest.mark.parametrize("name", [UNET, "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert str((folder / name).parent) in refusal(folder)


def test_a_missing_component_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "vae_tiny")
    assert "vae_tiny: missing" in refusal(folder)


def test_only_what_is_served_is_needed(folder: Path) -> None:
    shutil.rmtree(folder / "vae_tiny")
    check_family(folder, MINIATURE, ["original", "distilled"])


@pytest.mark.parametrize("bytes_left", [0, 4, 1_000, -1])
def test_truncated_weights_are_named(folder: Path, bytes_left: int) -> None:
    path = folder / UNET
    path.write_bytes(path.read_bytes()[:bytes_left])
    message = refusal(folder)
    assert str(path) in message
    assert "truncated or damaged" in message


def test_a_config_that_is_not_json_is_named(folder: Path) -> None:
    (folder / "unet/config.json").write_text("{")
    assert "unet/config.json" in refusal(folder)


def test_a_config_that_is_not_an_object_is_named(folder: Path) -> None:
    (folder / "unet/config.json").write_text(json.dumps([1]))
    assert "unet/config.json" in refusal(folder)


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


def test_real_weights_without_a_folder_are_an_error_not_the_miniature() -> None:
    with pytest.raises(WeightsError, match="weights_dir: not given"):
        family_dir("sd-v1", None)
    assert family_dir("miniature", None) == WEIGHTS_DIR


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        family_dir("sd-v1", tmp_path / "nowhere")
