"""Streams, leaving clients and dying replicas through Serve's proxy, over a fake denoiser."""

import concurrent.futures
import http.client
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cluster.conftest import Cluster, Fake, StartFake, wait_until_ready
from tests.machine import HANG_S, wait_for

# So many take 15 s, in which the first few are left.
MANY_STEPS = 150


@pytest.fixture(scope="module")
def fake(start_fake: StartFake) -> Fake:
    return start_fake("faults", 0.1)


def stream(fake: Fake, **body: Any) -> Iterator[dict[str, Any]]:
    url = f"{fake.url}/v1/images/generations"
    asked = {"prompt": "x", "stream": True, "num_inference_steps": 1, **body}
    with httpx.stream("POST", url, json=asked, timeout=HANG_S) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("image_generation.") for event in events]


def kill_replica(fake: Fake) -> None:
    os.kill(int((fake.folder / "original.pid").read_text()), signal.SIGKILL)


def wait_for_steps(fake: Fake, before: int, more: int) -> None:
    wait_for(lambda: fake.steps() >= before + more)


def test_events_arrive_when_they_are_made(fake: Fake) -> None:
    prompt = "hold after 5: events"
    with closing(stream(fake, prompt=prompt, num_inference_steps=8, partial_images=3)) as events:
        # Made after two and four steps, and here before the others are done.
        assert kinds(list(itertools.islice(events, 2))) == ["partial_image"] * 2
        fake.let_go("events")
        assert kinds(list(events))[-1] == "completed"


def test_a_client_that_leaves_stops_the_denoising(fake: Fake) -> None:
    before = fake.steps()
    body = json.dumps({"prompt": "x", "num_inference_steps": MANY_STEPS}).encode()
    parts = urlsplit(fake.url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.putrequest("POST", f"{parts.path}/v1/images/generations")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    time.sleep(0.2)  # So that the body is a packet of its own, as some clients send it.
    connection.send(body)
    wait_for_steps(fake, before, 3)
    connection.close()
    # There is one slot: it is free once the first request has left the batch.
    assert fake.ask().status_code == 200
    assert fake.steps() < before + MANY_STEPS


def test_a_client_that_leaves_a_stream_stops_the_denoising(fake: Fake) -> None:
    before = fake.steps()
    events = stream(fake, num_inference_steps=MANY_STEPS, partial_images=3)
    next(events)
    events.close()  # type: ignore[attr-defined]
    assert fake.ask().status_code == 200
    assert fake.steps() < before + MANY_STEPS


def test_a_reader_that_stalls_does_not_stall_others(fake: Fake) -> None:
    with closing(stream(fake, num_inference_steps=4, partial_images=3, n=4, size="192x192")) as one:
        next(one)
        assert kinds(list(stream(fake, num_inference_steps=2, partial_images=1)))[-1] == "completed"
        assert kinds(list(one))[-1] == "completed"


def test_a_replica_that_dies_is_replaced_and_the_request_answered(fake: Fake) -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool:
        before = fake.steps()
        reply = pool.submit(fake.ask, prompt="hold after 5: dying", seed=9, num_inference_steps=9)
        wait_for_steps(fake, before, 5)
        kill_replica(fake)
        fake.let_go("dying")
        assert reply.result().status_code == 200
        assert reply.result().json()["data"][0]["seed"] == 9


def test_a_replica_that_dies_after_the_first_event_ends_the_stream(fake: Fake) -> None:
    asked = {"prompt": "hold after 5: ended", "num_inference_steps": 9, "partial_images": 3}
    with closing(stream(fake, **asked)) as events:
        assert kinds([next(events)]) == ["partial_image"]
        kill_replica(fake)
        fake.let_go("ended")
        *previews, last = list(events)
    assert set(kinds(previews)) <= {"partial_image"}
    assert last["error"]["code"] == "variant_unavailable"


@pytest.mark.thorough
def test_a_stream_whose_replica_dies_before_the_first_event_is_tried_again(fake: Fake) -> None:
    wait_until_ready(fake.url)
    asked = {"prompt": "hold after 5: again", "num_inference_steps": 9}
    with concurrent.futures.ThreadPoolExecutor() as pool:
        before = fake.steps()
        again = pool.submit(lambda: list(stream(fake, **asked)))
        wait_for_steps(fake, before, 5)
        kill_replica(fake)
        fake.let_go("again")
        assert kinds(again.result()) == ["completed"]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("num_gpus", "devices"),
    [
        pytest.param(0, [{""}], id="none"),
        pytest.param(0.33, [{"0"}, {"1"}, {"2"}], id="a-fraction-each-on-one-gpu"),
        pytest.param(1, [{"0", "1", "2"}], id="one-each"),
    ],
)
def test_placement_follows_the_gpus_asked_for(
    cluster: Cluster, start_fake: StartFake, num_gpus: float, devices: list[set[str]]
) -> None:
    fake = start_fake("gpus", 0.0, variants="", num_gpus=num_gpus)
    assert {path.read_text() for path in fake.folder.glob("*.gpu")} in devices
    cluster.delete("gpus")
