"""The official `openai` client, unchanged, against the service."""

import base64
import io
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image
from ray.serve import Application

from serve.app import AppArgs, compose
from serve.miniature import WEIGHTS_DIR
from serve.weights.manifest import read_manifest
from tests.fakes import load_fake
from tests.pictures import TOLERANCE, difference

Start = Callable[[Application, str], str]
PROMPT = "a golden vase with different flowers"


@pytest.fixture(scope="module")
def client(miniature: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{miniature}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def slow(start: Start, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A service whose steps take a tenth of a second, with room for one request and one more."""
    load = partial(load_fake, 0.1, tmp_path_factory.mktemp("slow"))
    args = AppArgs(
        variants=("original",),
        num_cpus=0,
        slots=1,
        max_ongoing_requests=1,
        max_queued_requests=1,
        retry_after_s=1,
    )
    return start(compose(args, read_manifest(WEIGHTS_DIR), load), "slow") + "/v1"


def pixels(b64_json: str | None) -> Any:
    assert b64_json is not None
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64_json))).convert("RGB"))


def test_it_draws_several_images_with_stable_diffusions_parameters(client: openai.OpenAI) -> None:
    reply = client.images.generate(
        model="distilled",
        prompt=PROMPT,
        n=2,
        size="auto",
        response_format="b64_json",
        user="somebody",
        extra_body={
            "seed": 7,
            "num_inference_steps": 4,
            "guidance_scale": 2.0,
            "negative_prompt": "dark",
        },
    )
    assert reply.data is not None
    assert [pixels(one.b64_json).shape for one in reply.data] == [(96, 96, 3)] * 2
    assert [one.model_extra for one in reply.data] == [
        {"seed": seed, "flagged": False} for seed in (7, 8)
    ]
    assert reply.model_extra
    assert reply.model_extra["model"] == "distilled"


def test_it_streams_previews_and_then_the_picture(client: openai.OpenAI) -> None:
    body = {"seed": 7, "num_inference_steps": 20}
    stream = client.images.generate(
        model="original", prompt=PROMPT, stream=True, partial_images=3, extra_body=body
    )
    events = list(stream)
    kinds = [event.type for event in events]
    assert kinds[-1] == "image_generation.completed"
    assert kinds[:-1] == ["image_generation.partial_image"] * 3
    assert [one.partial_image_index for one in events[:-1]] == [0, 1, 2]  # type: ignore[union-attr]
    whole = client.images.generate(model="original", prompt=PROMPT, extra_body=body)
    assert whole.data is not None
    picture = pixels(whole.data[0].b64_json)
    assert difference(pixels(events[-1].b64_json), picture) <= TOLERANCE
    # The previews come closer to it.
    distances = [difference(pixels(event.b64_json), picture) for event in events]
    assert distances == sorted(distances, reverse=True)


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="x", extra_body={"num_inference_steps": 0})
    assert (bad.value.param, bad.value.code) == ("num_inference_steps", "invalid_value")
    with pytest.raises(openai.BadRequestError, match="no URLs to hand out"):
        client.images.generate(prompt="x", response_format="url")
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="x", model="nope")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.RateLimitError) as late:
        client.images.generate(
            prompt="x", extra_body={"num_inference_steps": 150, "deadline_s": 0.01}
        )
    assert late.value.code == "deadline_unreachable"
    assert [model.id for model in client.models.list()] == [
        "original",
        "distilled",
        "distilled-tiny-vae",
    ]


def test_it_waits_for_retry_after_and_tries_again(slow: str) -> None:
    blocked = [
        openai.OpenAI(base_url=slow, api_key="none", max_retries=0, timeout=1.0) for _ in range(2)
    ]
    for one in blocked:
        with pytest.raises(openai.APITimeoutError):
            one.images.generate(prompt="x", extra_body={"num_inference_steps": 150})
    with openai.OpenAI(base_url=slow, api_key="none", max_retries=10) as patient:
        reply = patient.images.generate(prompt="x", extra_body={"num_inference_steps": 2})
    assert reply.data


def test_what_is_left_behind_by_a_timeout_does_not_go_on(slow: str) -> None:
    with (
        openai.OpenAI(base_url=slow, api_key="none", max_retries=0, timeout=0.5) as hasty,
        pytest.raises(openai.APITimeoutError),
    ):
        hasty.images.generate(prompt="x", extra_body={"num_inference_steps": 150})
    started_at = time.monotonic()
    with openai.OpenAI(base_url=slow, api_key="none", max_retries=10) as patient:
        patient.images.generate(prompt="x", extra_body={"num_inference_steps": 1})
    # 150 steps would take 15 seconds.
    assert time.monotonic() - started_at < 12
