"""Weights and their manifest, as the running service holds to them and tells of them."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from PIL import Image
from ray import serve
from ray.serve import Application

from serve.app import AppArgs, build_app
from serve.miniature import WEIGHTS_DIR
from tests.integration.conftest import ROOT
from tests.unit.test_weights import cli

Start = Callable[[Application, str], str]
VARIANT = "distilled-tiny-vae"


def test_random_weights_say_so_in_the_catalogue_and_on_every_picture(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "random"
    assert cli("random", folder, "--family", "miniature", "--variants", VARIANT) == 0
    args = AppArgs(weights_dir=folder, variants=(VARIANT,), num_cpus=0, verify_hashes=True)
    url = start(build_app(args), "random")
    (model,) = httpx.get(f"{url}/v1/models").json()["data"]
    assert model["random_weights"] is True
    assert model["components"]["unet"]["origin"]["kind"] == "random"
    reply = httpx.post(
        f"{url}/v1/images/generations",
        json={"prompt": "x", "model": VARIANT, "num_inference_steps": 1},
        headers={"accept": "image/png"},
        timeout=60,
    )
    assert "random values" in reply.headers["x-warnings"]
    exif = Image.open(io.BytesIO(reply.content)).getexif()
    assert "random values" in exif[0x010E]
    serve.delete("random")


def test_a_replica_refuses_changed_bytes_when_told_to_compare_them(
    start: Start, tmp_path: Path
) -> None:
    folder = tmp_path / "changed"
    shutil.copytree(WEIGHTS_DIR, folder)
    path = folder / "vae_tiny/diffusion_pytorch_model.fp16.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    args = AppArgs(weights_dir=folder, variants=(VARIANT,), num_cpus=0, verify_hashes=True)
    with pytest.raises(RuntimeError):
        start(build_app(args), "changed")
    deployment = serve.status().applications["changed"].deployments[VARIANT]
    assert f"{path}: its sha256 is" in deployment.message
    serve.delete("changed")


def test_a_replica_loads_offline() -> None:
    script = """if True:
        from serve.app import AppArgs, _load_pipeline
        from serve.miniature import WEIGHTS_DIR
        from serve.variants import MINIATURE

        _load_pipeline(AppArgs(), WEIGHTS_DIR, [MINIATURE.variants["distilled-tiny-vae"]])
        from huggingface_hub import constants

        assert constants.HF_HUB_OFFLINE
    """
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, check=True)
