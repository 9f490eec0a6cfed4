"""Weights and their manifest, as the running service holds to them and tells of them."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from serve.app import _load_pipeline, build_app
from serve.catalogue import MINIATURE
from serve.config import AppArgs
from serve.errors import WeightsError
from serve.miniature import WEIGHTS_DIR
from tests.cluster.conftest import Start
from tests.machine import HANG_S, ROOT
from tests.unit.weights.test_weights import cli

VARIANT = "distilled-tiny-vae"


@pytest.mark.thorough
def test_random_weights_say_so_in_the_catalogue_and_on_every_picture(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "random"
    assert cli("random", folder, "--family", "miniature", "--variants", VARIANT) == 0
    args = AppArgs(weights_dir=folder, variants=(VARIANT,), num_cpus=0, verify_hashes=True)
    url = start(build_app(args), "random")
    (model,) = httpx.get(f"{url}/v1/models", timeout=HANG_S).json()["data"]
    assert model["random_weights"] is True
    assert model["components"]["unet"]["origin"]["kind"] == "random"
    reply = httpx.post(
        f"{url}/v1/images/generations",
        json={"prompt": "x", "model": VARIANT, "num_inference_steps": 1},
        headers={"accept": "image/png"},
        timeout=HANG_S,
    )
    assert "random values" in reply.headers["x-warnings"]
    exif = Image.open(io.BytesIO(reply.content)).getexif()
    assert "random values" in exif[0x010E]


def load(folder: Path, **args: Any) -> object:
    """What a replica does in its own process."""
    served = MINIATURE.variants[VARIANT]
    return _load_pipeline(AppArgs(weights_dir=folder, **args), folder, [served])


def test_a_replica_compares_bytes_only_when_told_to(tmp_path: Path) -> None:
    folder = shutil.copytree(WEIGHTS_DIR, tmp_path / "changed")
    path = folder / "vae_tiny/diffusion_pytorch_model.fp16.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    load(folder)
    with pytest.raises(WeightsError, match=f"{path}: its sha256 is"):
        load(folder, verify_hashes=True)


def test_a_replica_keeps_the_model_libraries_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    load(WEIGHTS_DIR)
    assert os.environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.thorough
def test_a_replica_loads_offline() -> None:
    script = """if True:
        from serve.app import _load_pipeline
        from serve.config import AppArgs
        from serve.miniature import WEIGHTS_DIR
        from serve.catalogue import MINIATURE

        _load_pipeline(AppArgs(), WEIGHTS_DIR, [MINIATURE.variants["distilled-tiny-vae"]])
        from huggingface_hub import constants

        assert constants.HF_HUB_OFFLINE
    """
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
