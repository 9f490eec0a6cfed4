"""The hostile corpus through Serve's proxy, to the miniature: refused, and forgotten."""

import io
import json

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.fuzz.answers import URL, fault_of
from tests.fuzz.connections import send
from tests.fuzz.corpus import DRAWN, JSON, RAW, REFUSED
from tests.fuzz.test_connections import hold_raw
from tests.machine import HANG_S
from tests.pictures import TOLERANCE, difference

ODD_PROMPTS = [
    "emoji", "emoji joined", "bidi", "many accents", "no character", "private use",
    "tokens of the tokenizer", "line breaks", "parameters of another picture",
]  # fmt: skip


def drawn(url: str, body: bytes) -> httpx.Response:
    headers = {**JSON, "accept": "image/png"}
    response = httpx.post(url + URL, content=body, headers=headers, timeout=HANG_S)
    assert response.status_code == 200, response.text
    return response


def pixels(response: httpx.Response) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(response.content)))


def test_after_all_of_it_the_same_seed_draws_the_same_picture(miniature: str) -> None:
    asked = b'{"prompt": "a red star on a yellow background", "seed": 7, "num_inference_steps": 4}'
    before = pixels(drawn(miniature, asked))
    with httpx.Client(base_url=miniature, timeout=HANG_S) as client:
        for one in REFUSED:
            headers = {name: value.encode("latin-1") for name, value in one.headers.items()}
            response = client.post(URL, content=one.body, headers=headers)
            error = fault_of(response, one.body[:200].decode("latin-1"))
            assert (response.status_code, error["param"]) == (one.status, one.param), one.name
    for raw in RAW:
        hold_raw(send(miniature, raw), raw)
    assert difference(before, pixels(drawn(miniature, asked))) <= TOLERANCE


@pytest.mark.parametrize("name", ODD_PROMPTS)
def test_an_odd_prompt_is_drawn_and_is_in_the_picture_as_it_was_given(
    miniature: str, name: str
) -> None:
    asked = {**json.loads(DRAWN[name]), "num_inference_steps": 1, "seed": 3}
    picture = Image.open(io.BytesIO(drawn(miniature, json.dumps(asked).encode()).content))
    assert picture.info["parameters"].startswith(f"{asked['prompt']}\n")
