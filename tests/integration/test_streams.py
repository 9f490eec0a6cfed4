"""Streams through Serve's proxy, over a denoiser that only sleeps."""

import concurrent.futures
import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray.serve import Application

from serve.app import AppArgs, compose
from serve.miniature import WEIGHTS_DIR
from serve.weights.manifest import read_manifest
from tests.fakes import load_fake

Start = Callable[[Application, str], str]
STEP_S = 0.1


@pytest.fixture(scope="module")
def journals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("streams")


@pytest.fixture(scope="module")
def url(start: Start, journals: Path) -> str:
    args = AppArgs(variants=("original",), num_cpus=0, slots=4)
    load = partial(load_fake, STEP_S, journals)
    app = compose(args, read_manifest(WEIGHTS_DIR), load)
    return start(app, "streams") + "/v1/images/generations"


def stream(url: str, **body: Any) -> Iterator[tuple[float, dict[str, Any]]]:
    """Each event and when it arrived, in seconds from the request."""
    started_at = time.monotonic()
    asked = {"prompt": "x", "stream": True, **body}
    with httpx.stream("POST", url, json=asked, timeout=60) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield time.monotonic() - started_at, json.loads(line.removeprefix("data: "))


def steps_in(journals: Path) -> int:
    return (journals / "original").read_text().count("step")


def test_events_arrive_when_they_are_made(url: str) -> None:
    arrived = list(stream(url, num_inference_steps=20, partial_images=3))
    assert [event["type"].split(".")[1] for _, event in arrived] == ["partial_image"] * 3 + [
        "completed"
    ]
    times = [at for at, _ in arrived]
    # Five steps lie between any two; kept back, they would come all at once.
    for earlier, later in itertools.pairwise(times):
        assert later - earlier > 2 * STEP_S


def test_a_client_that_leaves_a_stream_stops_the_denoising(url: str, journals: Path) -> None:
    before = steps_in(journals)
    events = stream(url, num_inference_steps=100, partial_images=3)
    next(events)
    events.close()  # type: ignore[attr-defined]
    at_close = steps_in(journals)
    assert list(stream(url, num_inference_steps=1))
    assert at_close - before >= 20
    assert steps_in(journals) - at_close < 20


def test_a_reader_that_stalls_does_not_stall_others(url: str) -> None:
    stalled = stream(url, num_inference_steps=10, partial_images=3, n=4, size="192x192")
    next(stalled)
    assert len(list(stream(url, num_inference_steps=10, partial_images=1))) == 2
    assert list(stalled)[-1][1]["type"] == "image_generation.completed"


def test_a_replica_that_dies_after_the_first_event_ends_the_stream(
    url: str, journals: Path
) -> None:
    def read() -> list[dict[str, Any]]:
        return [event for _, event in stream(url, num_inference_steps=40, partial_images=3)]

    with concurrent.futures.ThreadPoolExecutor() as pool:
        before = steps_in(journals)
        events = pool.submit(read)
        while steps_in(journals) < before + 15:
            time.sleep(0.02)
        os.kill(int((journals / "original.pid").read_text()), signal.SIGKILL)
        *told, last = events.result()
    assert [event["type"] for event in told] == ["image_generation.partial_image"]
    assert last["error"]["code"] == "variant_unavailable"
    # One that dies before it told anything is tried again.
    with concurrent.futures.ThreadPoolExecutor() as pool:
        before = steps_in(journals)
        again = pool.submit(lambda: list(stream(url, num_inference_steps=20)))
        while steps_in(journals) < before + 12:
            time.sleep(0.02)
        os.kill(int((journals / "original.pid").read_text()), signal.SIGKILL)
        assert again.result()[-1][1]["type"] == "image_generation.completed"
