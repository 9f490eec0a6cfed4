"""The official `openai` client, unchanged, against the service."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image

from serve.catalogue import MINIATURE
from serve.miniature.training.judges import flower_colours
from tests.machine import HANG_S
from tests.pictures import TOLERANCE, difference

PROMPT = "a golden vase with different flowers"


@pytest.fixture(scope="module")
def client(miniature: str) -> Iterator[openai.OpenAI]:
    url = f"{miniature}/v1"
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=HANG_S) as made:
        yield made


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


def test_it_retrieves_a_model_and_draws_ten_images(client: openai.OpenAI) -> None:
    assert client.models.retrieve("distilled").id == "distilled"
    with pytest.raises(openai.NotFoundError, match="sdxl"):
        client.models.retrieve("sdxl")
    body = {"num_inference_steps": 1, "size": "64x64"}
    reply = client.images.generate(model="distilled", prompt=PROMPT, n=10, extra_body=body)
    assert reply.data is not None
    assert len(reply.data) == 10


def test_it_streams_previews_and_then_the_picture(client: openai.OpenAI) -> None:
    body = {"seed": 7, "num_inference_steps": 60}
    stream = client.images.generate(
        model="original", prompt=PROMPT, stream=True, partial_images=3, extra_body=body
    )
    *previews, last = list(stream)
    assert last.type == "image_generation.completed"
    assert {event.type for event in previews} <= {"image_generation.partial_image"}
    # A busy replica may leave some out.
    indices = [event.partial_image_index for event in previews]
    assert indices == sorted(set(indices) & {0, 1, 2})
    whole = client.images.generate(model="original", prompt=PROMPT, extra_body=body)
    assert whole.data is not None
    picture = pixels(whole.data[0].b64_json)
    assert difference(pixels(last.b64_json), picture) <= TOLERANCE
    # The previews come closer to it.
    distances = [difference(pixels(event.b64_json), picture) for event in [*previews, last]]
    assert distances == sorted(distances, reverse=True)


def test_it_edits_a_picture_and_keeps_what_the_mask_keeps(client: openai.OpenAI) -> None:
    body = {"seed": 7, "num_inference_steps": 25}
    reply = client.images.generate(
        model="original", prompt="a blue vase with red roses", extra_body=body
    )
    assert reply.data is not None
    before = pixels(reply.data[0].b64_json)
    source, alpha = io.BytesIO(), np.full((96, 96, 4), 255, np.uint8)
    Image.fromarray(before).save(source, "PNG")
    alpha[:56, :, 3] = 0
    mask = io.BytesIO()
    Image.fromarray(alpha).save(mask, "PNG")
    asked: dict[str, Any] = {
        "model": "original",
        "image": ("vase.png", source.getvalue()),
        "mask": ("mask.png", mask.getvalue()),
        "prompt": "a blue vase with yellow tulips",
        "extra_body": body,
    }
    edited = client.images.edit(**asked)
    assert edited.data is not None
    after = pixels(edited.data[0].b64_json)
    assert (after[56:] == before[56:]).all()
    assert "red" in flower_colours(before)
    assert "yellow" in flower_colours(after)
    assert "red" not in flower_colours(after)
    *previews, last = list(client.images.edit(**asked, stream=True, partial_images=2))
    assert last.type == "image_edit.completed"
    # All of them: nobody else uses the replica.
    assert [event.type for event in previews] == ["image_edit.partial_image"] * 2
    assert difference(pixels(last.b64_json), after) <= TOLERANCE


def test_errors_are_the_clients_own_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.images.generate(prompt="x", extra_body={"num_inference_steps": 0})
    assert (bad.value.param, bad.value.code) == ("num_inference_steps", "invalid_value")
    with pytest.raises(openai.BadRequestError, match="no URLs to hand out"):
        client.images.generate(prompt="x", response_format="url")
    with pytest.raises(openai.NotFoundError) as missing:
        client.images.generate(prompt="x", model="nope")
    assert missing.value.code == "model_not_found"
    # An idle service says that it would take too long even alone, and not to try again.
    with pytest.raises(openai.BadRequestError) as late:
        client.images.generate(
            prompt="x", extra_body={"num_inference_steps": 150, "deadline_s": 0.01}
        )
    assert (late.value.param, late.value.code) == ("deadline_s", "invalid_value")
    assert [model.id for model in client.models.list()] == list(MINIATURE.variants)
