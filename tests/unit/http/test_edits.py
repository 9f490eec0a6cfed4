"""`POST /v1/images/edits` over a fake router: what of a form reaches the pipelines."""

import io
import json
from typing import Any

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from serve.http.api import build_api
from serve.http.options import HttpOptions
from tests.asgi import call
from tests.fuzz.forms import REFUSED_FORMS, RefusedForm
from tests.fuzz.pictures import REFUSED_PICTURES
from tests.unit.http.test_api import FakeRouter

URL = "/v1/images/edits"


def picture(width_px: int = 96, height_px: int = 96) -> bytes:
    grid = np.indices((height_px, width_px)).sum(0) % 256
    pixels = np.stack([grid, 255 - grid, grid // 2], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def mask(width_px: int = 96, height_px: int = 96) -> bytes:
    """Transparent in its left half."""
    alpha = np.full((height_px, width_px, 4), 255, np.uint8)
    alpha[:, : width_px // 2, 3] = 0
    file = io.BytesIO()
    Image.fromarray(alpha).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def app(router: FakeRouter) -> FastAPI:
    return build_api(router, HttpOptions())


def post(
    app: FastAPI, image: bytes | None = None, mask: bytes | None = None, **fields: Any
) -> httpx.Response:
    files = {"image": ("a.png", picture() if image is None else image)}
    if mask is not None:
        files["mask"] = ("b.png", mask)
    text = {"prompt": "yellow tulips", **{name: str(value) for name, value in fields.items()}}
    asked = httpx.Request("POST", f"http://test{URL}", files=files, data=text)
    headers = [(b"content-type", asked.headers["content-type"].encode())]
    return call(app, "POST", URL, content=asked.read(), headers=headers)


def test_the_picture_is_the_source_in_its_own_size(app: FastAPI, router: FakeRouter) -> None:
    response = post(app, picture(128, 72), seed=3, num_inference_steps=10, model="distilled")
    assert response.status_code == 200, response.text
    assert response.json()["size"] == "128x72"
    ((_, asked, _),) = router.asked
    assert (asked.width_px, asked.height_px, asked.seeds) == (128, 72, (3,))
    assert asked.source is not None
    assert asked.source.strength == 0.8
    assert asked.source.mask is None
    assert asked.source.pixels == Image.open(io.BytesIO(picture(128, 72))).tobytes()


@pytest.mark.parametrize(
    ("given", "size", "drawn"),
    [
        pytest.param((100, 70), None, (104, 72), id="rounded"),
        pytest.param((1000, 1000), None, (96, 96), id="scaled-down"),
        pytest.param((960, 480), None, (136, 64), id="scaled-down-in-its-shape"),
        pytest.param((190, 64), None, (192, 64), id="no-smaller-than-the-bounds"),
        pytest.param((32, 48), None, (64, 96), id="scaled-up"),
        pytest.param((300, 100), "96x128", (96, 128), id="cropped"),
        pytest.param((96, 96), "auto", (96, 96), id="auto"),
    ],
)
def test_a_picture_of_another_size_is_scaled_and_cropped(
    app: FastAPI,
    router: FakeRouter,
    given: tuple[int, int],
    size: str | None,
    drawn: tuple[int, int],
) -> None:
    response = post(app, picture(*given), **({} if size is None else {"size": size}))
    assert response.status_code == 200, response.text
    ((_, asked, _),) = router.asked
    assert (asked.width_px, asked.height_px) == drawn
    assert asked.source is not None
    assert len(asked.source.pixels) == drawn[0] * drawn[1] * 3


def test_what_a_mask_leaves_transparent_may_change(app: FastAPI, router: FakeRouter) -> None:
    assert post(app, mask=mask()).status_code == 200
    ((_, asked, _),) = router.asked
    assert asked.source is not None
    assert asked.source.mask is not None
    changed = np.frombuffer(asked.source.mask, np.uint8).reshape(96, 96) > 127
    assert changed[:, :48].all()
    assert not changed[:, 48:].any()


def test_without_a_mask_what_is_transparent_of_the_picture_may_change(
    app: FastAPI, router: FakeRouter
) -> None:
    assert post(app, mask()).status_code == 200
    ((_, asked, _),) = router.asked
    assert asked.source is not None
    assert asked.source.mask is not None
    assert np.frombuffer(asked.source.mask, np.uint8).mean() == 127.5


def test_all_fields_of_generations_come_as_text(app: FastAPI, router: FakeRouter) -> None:
    response = post(
        app, n=2, size="64x96", seed=7, num_inference_steps=10, guidance_scale=3.5, strength=0.5,
        scheduler="euler", negative_prompt="blue", output_format="webp", deadline_s=20,
        model="distilled", user="me", stream="false", background="", input_fidelity="high",
    )  # fmt: skip
    assert response.status_code == 200, response.text
    ((_, asked, form),) = router.asked
    assert (asked.seeds, asked.guidance_scale, asked.scheduler) == ((7, 8), 3.5, "euler")
    assert asked.source is not None
    assert (asked.source.strength, asked.first_step) == (0.5, 5)
    assert (asked.negative_prompt, form.output_format) == ("blue", "webp")
    assert asked.warnings == ('input_fidelity: "high" has no effect here',)


def test_previews_are_streamed(app: FastAPI) -> None:
    response = post(app, stream="true", partial_images=2)
    assert response.headers["content-type"].startswith("text/event-stream")
    kinds = [
        json.loads(line.removeprefix("data: "))["type"]
        for line in response.text.splitlines()
        if line.startswith("data: {")
    ]
    assert kinds == [*["image_edit.partial_image"] * 2, "image_edit.completed"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"strength": 0}, "strength", "over 0, at most 1"),
        ({"strength": 1.5}, "strength", "over 0, at most 1"),
        ({"strength": "much"}, "strength", "a finite number"),
        ({"strength": 0.1, "num_inference_steps": 5}, "strength", "none of 5 steps; give a higher"),
        (
            {"n": 10, "strength": 0.5, "num_inference_steps": 150, "size": "192x192"},
            "n",
            "75 of 150 steps each (strength 0.5), and one step to encode the picture, are 3004 ",
        ),
        ({"n": "two"}, "n", "an integer from 1 to 10"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"prompt": ""}, "prompt", "1 to 4000"),
        ({"size": "99x99"}, "size", "multiples of 8"),
        ({"colour": "red"}, "colour", "unknown field; allowed: image, mask, prompt, "),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"image": picture(800, 16)}, "size", "no picture of that shape"),
        ({"image": b""}, "image", "PNG"),
        ({"mask": picture()}, "mask", "transparent"),
        ({"mask": mask(64, 96)}, "mask", "96x96 px"),
    ],
)
def test_what_is_wrong_is_refused_by_its_name(
    app: FastAPI, router: FakeRouter, fields: dict[str, Any], param: str, words: str
) -> None:
    response = post(app, **fields)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == param
    assert error["message"].partition(": ")[0].strip('"') == param
    assert words in error["message"]
    assert router.asked == []


@pytest.mark.parametrize("name", ["image", "image[]"])
def test_what_open_webui_sends_is_drawn(app: FastAPI, router: FakeRouter, name: str) -> None:
    """The form of its engine `openai`; it names several pictures, or one in a list, `image[]`."""
    text = {"model": "distilled", "prompt": "yellow tulips", "n": "1", "size": "96x96",
            "response_format": "b64_json"}  # fmt: skip
    files = [(name, ("image.png", picture(), "image/png"))]
    asked = httpx.Request("POST", f"http://test{URL}", files=files, data=text)
    response = call(app, "POST", URL, content=asked.read(), headers=asked.headers)
    assert response.status_code == 200, response.text
    assert response.json()["data"][0]["b64_json"]
    ((variant, drawn, _),) = router.asked
    assert (variant, drawn.width_px, drawn.prompt) == ("distilled", 96, "yellow tulips")


def test_the_description_says_which_size_an_edit_has(app: FastAPI) -> None:
    (body,) = app.openapi()["paths"][URL]["post"]["requestBody"]["content"].values()
    assert "the picture's own" in body["schema"]["properties"]["size"]["description"]


def test_too_large_a_body_is_told_how_large_pictures_may_be(app: FastAPI) -> None:
    response = post(app, bytes(17 * 1024**2), bytes(17 * 1024**2))
    assert response.status_code == 413
    assert "a picture and a mask may have 16 MiB each" in response.json()["error"]["message"]


@pytest.mark.parametrize("field", ["image", "mask", "strength"])
def test_an_edit_sent_to_generations_is_told_its_route(app: FastAPI, field: str) -> None:
    body = {"prompt": "x", field: 0.5}
    as_json = call(app, "POST", "/v1/images/generations", json=body)
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    as_form = call(app, "POST", "/v1/images/generations", content=b"", headers=headers)
    for response in (as_json, as_form):
        assert response.status_code == 400
        assert URL in response.json()["error"]["message"]


def test_an_edit_without_a_picture_is_refused(app: FastAPI) -> None:
    body = b'--x\r\ncontent-disposition: form-data; name="prompt"\r\n\r\na\r\n--x--\r\n'
    headers = [(b"content-type", b"multipart/form-data; boundary=x")]
    response = call(app, "POST", URL, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "image")


@pytest.mark.parametrize("name", REFUSED_PICTURES)
def test_a_hostile_picture_is_refused(app: FastAPI, router: FakeRouter, name: str) -> None:
    data, words = REFUSED_PICTURES[name]
    response = post(app, data)
    assert response.status_code in (400, 413), response.text
    assert words in response.json()["error"]["message"]
    assert router.asked == []


@pytest.mark.parametrize("form", REFUSED_FORMS, ids=lambda form: ascii(form.name)[1:-1])
def test_a_hostile_form_is_refused(app: FastAPI, router: FakeRouter, form: RefusedForm) -> None:
    headers = [(b"content-type", form.content_type.encode("latin-1"))]
    response = call(app, "POST", URL, content=form.body, headers=headers)
    assert response.status_code == form.status, response.text
    assert form.words in response.json()["error"]["message"]
    assert router.asked == []
