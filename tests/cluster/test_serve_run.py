"""`serve run` as the README has it: every variant in a replica of its own."""

import io

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.catalogue import MINIATURE
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.pipeline import Pipeline
from tests.cluster.conftest import Cluster, wait_until_ready
from tests.fakes import generation
from tests.machine import HANG_S
from tests.pictures import TOLERANCE, difference, finish

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(
    ("arguments", "name", "served"),
    [
        pytest.param(
            ["serve.app:build_app", "variants=distilled"],
            "default",
            ["distilled"],
            id="import-path",
        ),
        pytest.param(
            ["deploy/overlays/laptop/serve-config.yaml"],
            "distilled-sd-serve",
            list(MINIATURE.default_variants),
            id="laptop",
        ),
    ],
)
def test_every_variant_draws_its_own_picture(
    cluster: Cluster, arguments: list[str], name: str, served: list[str]
) -> None:
    cluster.serve_run(*arguments)
    wait_until_ready(cluster.url)
    models = httpx.get(f"{cluster.url}/v1/models", timeout=HANG_S).json()["data"]
    assert [one["id"] for one in models] == served
    # README's shortest request names no model.
    asked = {"prompt": "a red star", "seed": 2023, "num_inference_steps": 4}
    url, png = f"{cluster.url}/v1/images/generations", {"accept": "image/png"}
    assert httpx.post(url, json=asked, timeout=HANG_S).json()["model"] == served[0]
    for variant in (MINIATURE.variants[one] for one in served):
        body = {**asked, "model": variant.name}
        reply = httpx.post(url, json=body, headers=png, timeout=HANG_S)
        pipe = Pipeline.load([variant], WEIGHTS_DIR, "cpu")
        trajectories, _ = pipe.begin(
            generation(
                variant=variant.name,
                seeds=(2023,),
                width_px=variant.default_size_px,
                height_px=variant.default_size_px,
                num_inference_steps=4,
                guidance_scale=variant.guidance_scale,
            )
        )
        finish(pipe, trajectories)
        drawn = np.asarray(Image.open(io.BytesIO(reply.content)).convert("RGB"))
        assert difference(drawn, pipe.decode(trajectories)[0]) <= TOLERANCE
    cluster.delete(name)
