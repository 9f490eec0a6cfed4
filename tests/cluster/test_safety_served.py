"""The safety checker in the running service, over a small stand-in of the published one's class."""

import base64
import io
import itertools
import json
import re
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
import torch
from PIL import Image

from serve.app import build_app
from serve.catalogue import SD_V1
from serve.config import AppArgs
from serve.errors import WeightsError
from serve.pipelines.pipeline import Pipeline
from tests.cluster.conftest import Start
from tests.fakes import generation
from tests.machine import HANG_S, wait_for
from tests.pictures import finish
from tests.safety import NEVER, sd_v1_with_checker

VARIANT = "distilled-tiny-vae"
SEEDS = range(1, 5)
ASKED = {"prompt": "x", "model": VARIANT, "num_inference_steps": 2, "size": "256x256"}


def between_pictures(folder: Path) -> tuple[float, dict[int, bool]]:
    """A threshold that some of the seeds' pictures exceed, and which ones."""
    pipe = Pipeline.load([SD_V1.variants[VARIANT]], folder, "cpu", safety_checker=True)
    asked = generation(
        variant=VARIANT,
        prompt="x",
        seeds=tuple(SEEDS),
        width_px=256,
        height_px=256,
        num_inference_steps=2,
        guidance_scale=7.5,
    )
    trajectories, _ = pipe.begin(asked)
    finish(pipe, trajectories)
    checker = pipe._safety_checker
    pixels = np.concatenate([pipe.decode([one]) for one in trajectories])
    clip_input = checker._image_processor(list(pixels), return_tensors="pt").pixel_values
    model = checker._model
    with torch.no_grad():
        embeds = model.visual_projection(model.vision_model(clip_input).pooler_output)
        scores = torch.cosine_similarity(embeds, model.concept_embeds[:1]).tolist()
    ordered = sorted(scores)
    gap, low = max((high - low, low) for low, high in itertools.pairwise(ordered))
    # Else the service could fall on the other side by rounding.
    assert gap > 0.02, scores
    threshold = low + gap / 2
    return threshold, {seed: one > threshold for seed, one in zip(SEEDS, scores, strict=True)}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[float, dict[int, bool]]:
    return between_pictures(sd_v1_with_checker(tmp_path_factory.mktemp("plain") / "sd", NEVER))


@pytest.fixture(scope="module")
def url(
    start: Start,
    tmp_path_factory: pytest.TempPathFactory,
    expected: tuple[float, dict[int, bool]],
) -> str:
    folder = sd_v1_with_checker(tmp_path_factory.mktemp("served") / "sd", expected[0])
    args = AppArgs(
        family="sd-v1",
        weights_dir=folder,
        variants=(VARIANT,),
        safety_checker=True,
        num_cpus=0,
        slots=2,
    )
    return start(build_app(args), "safety") + "/v1/images/generations"


def flagged_images() -> float:
    """What Prometheus would find, of this application only."""
    (node,) = ray.nodes()
    text = httpx.get(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=HANG_S).text
    found = re.findall(r"^ray_dsd_flagged_images_total{(.*)} (\S+)$", text, re.MULTILINE)
    return sum(
        float(value)
        for labels, value in found
        if 'application="safety"' in labels and f'variant="{VARIANT}"' in labels
    )


def streamed(url: str, **body: Any) -> list[dict[str, Any]]:
    response = httpx.post(url, json={**ASKED, "stream": True, **body}, timeout=HANG_S)
    assert response.status_code == 200, response.text
    lines = [line for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


@pytest.mark.thorough
def test_what_is_flagged_never_leaves_the_service_and_is_told_and_counted(
    url: str, expected: tuple[float, dict[int, bool]]
) -> None:
    _, flagged = expected
    before = flagged_images()
    reply = httpx.post(url, json={**ASKED, "n": len(SEEDS), "seed": SEEDS[0]}, timeout=HANG_S)
    assert reply.status_code == 200, reply.text
    assert {one["seed"]: one["flagged"] for one in reply.json()["data"]} == flagged
    for one in reply.json()["data"]:
        if one["flagged"]:
            assert one["b64_json"] is None
        else:
            picture = Image.open(io.BytesIO(base64.b64decode(one["b64_json"])))
            assert np.asarray(picture).std() > 5
    told = [line for line in reply.json()["warnings"] if "flagged by the safety checker" in line]
    assert len(told) == sum(flagged.values())

    events = streamed(url, n=len(SEEDS), seed=SEEDS[0])
    assert {event["seed"] for event in events} == {seed for seed, one in flagged.items() if not one}
    assert events[-1]["warnings"] == told

    alone = next(seed for seed, one in flagged.items() if one)
    for accept in ("application/json", "image/png"):
        refused = httpx.post(
            url, json={**ASKED, "seed": alone}, headers={"accept": accept}, timeout=HANG_S
        )
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "content_policy_violation"

    wait_for(lambda: flagged_images() == before + 2 * sum(flagged.values()) + 2)


def test_a_checker_that_is_on_but_not_there_stops_the_application_from_being_built(
    tmp_path: Path,
) -> None:
    with pytest.raises(WeightsError, match="'original' of family 'miniature' has none"):
        build_app(AppArgs(safety_checker=True))
    folder = sd_v1_with_checker(tmp_path / "sd", NEVER)
    for path in (folder / "feature_extractor").iterdir():
        path.unlink()
    (folder / "feature_extractor").rmdir()
    args = AppArgs(family="sd-v1", weights_dir=folder, safety_checker=True)
    with pytest.raises(WeightsError, match=r"feature_extractor is missing; `make weights FAMILY"):
        build_app(args)
    build_app(args.model_copy(update={"safety_checker": False}))
