"""The shipped miniature in all variants, through HTTP, Serve and the engine."""

import base64
import concurrent.futures
import io
import itertools
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from serve.catalogue import MINIATURE
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.pipeline import Pipeline
from tests.machine import HANG_S
from tests.pictures import TOLERANCE, difference, finish

VARIANTS = list(MINIATURE.variants)
PROMPT = "a golden vase with different flowers"


def post(url: str, accept: str = "application/json", **body: Any) -> httpx.Response:
    response = httpx.post(
        f"{url}/v1/images/generations",
        json={"prompt": PROMPT, **body},
        headers={"accept": accept},
        timeout=HANG_S,
    )
    assert response.status_code == 200, response.text
    return response


def pixels(picture: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def pictures(response: httpx.Response) -> list[NDArray[np.uint8]]:
    return [pixels(base64.b64decode(image["b64_json"])) for image in response.json()["data"]]


def test_one_replica_that_hosts_every_variant_makes_each_of_them_ready(miniature: str) -> None:
    ready = httpx.get(f"{miniature}/readyz", timeout=HANG_S).json()
    assert ready == {"ready": True, "warm_replicas": dict.fromkeys(VARIANTS, 1), "minimum": 1}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_service_draws_what_the_pipeline_draws(miniature: str, variant: str) -> None:
    reply = post(miniature, "image/png", model=variant, seed=2023, num_inference_steps=8)
    pipe = Pipeline.load([MINIATURE.variants[variant]], WEIGHTS_DIR, "cpu")
    trajectories, _ = pipe.begin(MINIATURE.variants[variant].generation(PROMPT, [2023], 8))
    finish(pipe, trajectories)
    assert difference(pixels(reply.content), pipe.decode(trajectories)[0]) <= TOLERANCE
    assert reply.headers["x-model"] == variant
    assert reply.headers["x-request-id"]


def test_n_images_equal_n_requests_with_the_seeds_that_the_reply_names(miniature: str) -> None:
    together = post(miniature, model="distilled", n=3, num_inference_steps=6)
    seeds = [image["seed"] for image in together.json()["data"]]
    assert seeds == [(seeds[0] + image) % 2**32 for image in range(3)]
    for seed, picture in zip(seeds, pictures(together), strict=True):
        alone = post(miniature, model="distilled", seed=seed, num_inference_steps=6)
        assert difference(pictures(alone)[0], picture) <= TOLERANCE


def test_variants_draw_side_by_side_and_each_draws_its_own(miniature: str) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        replies = list(pool.map(lambda name: post(miniature, model=name, seed=5), VARIANTS))
    drawn = [pictures(reply)[0] for reply in replies]
    assert [reply.json()["model"] for reply in replies] == VARIANTS
    for ours, others in itertools.combinations(drawn, 2):
        assert difference(ours, others) > TOLERANCE


def test_the_negative_prompt_reaches_the_unet(miniature: str) -> None:
    plain, negative = (
        pictures(
            post(miniature, model="distilled", seed=1, guidance_scale=4, negative_prompt=text)
        )[0]
        for text in ("", "a golden vase")
    )
    assert difference(plain, negative) > 2 * TOLERANCE


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_formats_and_sizes_are_those_asked_for(miniature: str, output_format: str) -> None:
    reply = post(
        miniature,
        f"image/{output_format}",
        model="distilled-tiny-vae",
        size="128x64",
        num_inference_steps=2,
    )
    picture = Image.open(io.BytesIO(reply.content))
    assert picture.size == (128, 64)
    assert picture.get_format_mimetype() == reply.headers["content-type"]


def test_a_prompt_that_was_cut_is_told(miniature: str) -> None:
    reply = post(miniature, prompt="star " * 200, model="distilled", num_inference_steps=1)
    assert "cut to the first 77" in reply.json()["warnings"][0]


def test_what_open_webuis_image_engine_sends_is_answered(miniature: str) -> None:
    # Its OpenAI-style engine's body, field for field.
    body = {
        "model": "distilled",
        "prompt": PROMPT,
        "n": 1,
        "size": "96x96",
        "response_format": "b64_json",
    }
    reply = httpx.post(
        f"{miniature}/v1/images/generations",
        json=body,
        headers={"Authorization": "Bearer none", "Content-Type": "application/json"},
        timeout=HANG_S,
    )
    assert reply.status_code == 200
    (picture,) = pictures(reply)
    assert picture.shape == (96, 96, 3)


def test_timings_are_measured(miniature: str) -> None:
    timings = post(miniature, model="distilled", num_inference_steps=10).json()["timings"]
    assert set(timings) == {"queue_s", "denoise_s", "decode_s", "encode_s"}
    assert min(timings["denoise_s"], timings["decode_s"], timings["encode_s"]) > 0


def test_a_chunked_body_over_64_kib_is_refused_by_the_real_server(miniature: str) -> None:
    response = httpx.post(
        f"{miniature}/v1/images/generations",
        content=(b" " * 8192 for _ in range(40)),
        headers={"content-type": "application/json"},
        timeout=HANG_S,
    )
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
