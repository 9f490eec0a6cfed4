"""A variant of one's own, from a catalogue file to its pictures, the page and a load test."""

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from playwright.sync_api import expect

from serve.config import AppArgs
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.pipeline import Pipeline
from serve.weights.manifest import Manifest, Origin, pin, read_manifest, write_manifest
from serve.weights.saving import save_fp16
from tests.chromium import Open
from tests.cluster.conftest import Cluster, wait_until_ready
from tests.machine import HANG_S, ROOT
from tests.pictures import TOLERANCE, difference, draw, stock_picture

PROMPT = "a golden vase with different flowers"
CATALOGUE = """\
- name: my-style
  base: distilled
  description: our own vases
  unet: {folder: unet_my_style}
  vae: {folder: vae_tiny}
  default_steps: 8
  max_steps: 40
  default_scheduler: dpm++
"""


@pytest.fixture(scope="module")
def args(tmp_path_factory: Any) -> dict[str, str]:
    """A family folder with a fine-tuned UNet, and the options that serve it."""
    folder = tmp_path_factory.mktemp("own") / "family"
    shutil.copytree(WEIGHTS_DIR, folder)
    unet = UNet2DConditionModel.from_pretrained(folder / "unet_distilled", variant="fp16")
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in unet.conv_out.parameters():
            weights.mul_(1 + 0.2 * torch.rand_like(weights))
    save_fp16(unet, folder / "unet_my_style")
    pinned = pin(folder / "unet_my_style", Origin(kind="local", licence="ours"))
    before = read_manifest(folder).components
    write_manifest(
        folder, Manifest(family="miniature", components=before | {"unet_my_style": pinned})
    )
    catalogue = folder.with_name("catalogue.yaml")
    catalogue.write_text(CATALOGUE)
    return {
        "weights_dir": str(folder),
        "catalogue": str(catalogue),
        "variants": "distilled,my-style",
    }


@pytest.fixture(scope="module")
def url(cluster: Cluster, args: dict[str, str]) -> Iterator[str]:
    cluster.serve_run("serve.app:build_app", *(f"{name}={value}" for name, value in args.items()))
    wait_until_ready(cluster.url)
    yield cluster.url
    cluster.delete("default")


def test_it_draws_as_diffusers_does_with_its_own_defaults(url: str, args: dict[str, str]) -> None:
    reply = httpx.post(
        f"{url}/v1/images/generations",
        json={"model": "my-style", "prompt": PROMPT, "seed": 5},
        headers={"accept": "image/png"},
        timeout=HANG_S,
    )
    assert reply.headers["x-model"] == "my-style"
    drawn = np.asarray(Image.open(io.BytesIO(reply.content)))
    served = AppArgs.model_validate(args).served
    pipeline = Pipeline.load(list(served.values()), Path(args["weights_dir"]), "cpu")
    job = served["my-style"].generation(PROMPT, [5])
    assert (job.num_inference_steps, job.scheduler) == (8, "dpm++")
    assert difference(drawn, stock_picture(pipeline, job)[0]) <= TOLERANCE
    base = served["distilled"].generation(PROMPT, [5], 8, scheduler="dpm++")
    assert difference(drawn, draw(pipeline, base)[0]) > TOLERANCE


def test_the_models_tell_what_it_is_made_of(url: str) -> None:
    models = httpx.get(f"{url}/v1/models", timeout=HANG_S).json()
    _, model = models["data"]
    assert (model["id"], model["description"]) == ("my-style", "our own vases")
    assert model["components"]["unet"]["folder"] == "unet_my_style"
    assert model["components"]["unet"]["origin"]["kind"] == "local"
    assert set(model["licences"]) == {"Apache-2.0", "ours"}
    assert model["defaults"]["num_inference_steps"] == 8
    assert model["bounds"]["num_inference_steps"] == [1, 40]
    assert models["auto"]["variants"] == ["distilled", "my-style"]  # By their work.


def test_its_bounds_are_those_of_its_entry(url: str) -> None:
    body = {"model": "my-style", "prompt": PROMPT, "num_inference_steps": 41}
    reply = httpx.post(f"{url}/v1/images/generations", json=body, timeout=HANG_S)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "num_inference_steps"


def test_the_page_draws_with_it(url: str, open_page: Open) -> None:
    page = open_page(url)
    page.get_by_role("button", name="Draw with all variants").click()
    card = page.locator('.card[data-model="my-style"]')
    expect(card).to_have_attribute("data-state", "done", timeout=1000 * HANG_S)
    expect(card).to_contain_text("my-style")


def test_locust_asks_it(url: str) -> None:
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", "AnyVariantUser"]
    options = ["--headless", "--json", "--host", url, "--variant", "my-style", "--users", "1"]
    done = subprocess.run(
        [*command, *options, "--run-time", "5s", "--stop-timeout", f"{HANG_S:.0f}s"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * HANG_S,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["name"] == "/v1/images/generations [my-style]"
    assert row["num_requests"] > row["num_failures"] == 0
