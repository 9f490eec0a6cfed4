"""Which replica and which variant gets a request, over a denoiser that only sleeps."""

import concurrent.futures
import contextlib
import http.client
import itertools
import json
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.cluster.conftest import Cluster, Fake, StartFake
from tests.machine import wait_for


def test_the_replica_with_the_least_work_ahead_is_asked(
    cluster: Cluster, start_fake: StartFake
) -> None:
    fake = start_fake("least-work", 0.1, num_replicas=2)
    before = fake.steps()
    # 15 s of work are ahead of one of them, which tells so every second. Each has much room. Not a
    # stream: Serve's handles for those are others, and count for themselves.
    long = {"prompt": "hold after 0: long", "num_inference_steps": 150}
    with contextlib.closing(begin(fake, long)):
        wait_for(lambda: fake.steps() > before)
        # Two at a time: by the number of requests, the busy one would get some, and keep them.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            replies = list(pool.map(lambda _: fake.ask(num_inference_steps=2), range(8)))
        assert [reply.status_code for reply in replies] == [200] * 8
    fake.let_go("long")
    cluster.delete("least-work")


def begin(fake: Fake, body: dict[str, Any]) -> http.client.HTTPConnection:
    """Send a request whose answer nobody waits for."""
    parts = urlsplit(fake.url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"{parts.path}/v1/images/generations", json.dumps(body), headers)
    return connection


@pytest.fixture(scope="module")
def fake(start_fake: StartFake) -> Fake:
    auto = {"kind": "quality-first", "slo_s": 3, "return_after_s": 0}
    return start_fake("auto", 0.1, variants="original,distilled", auto=auto)


def auto(fake: Fake) -> httpx.Response:
    reply = fake.ask(model="auto", num_inference_steps=10)
    assert reply.status_code == 200, reply.text
    return reply


def test_under_load_a_cheaper_variant_answers_and_says_so(fake: Fake) -> None:
    # A forecast that a busy machine makes late counts as none, so that it may take several tries.
    wait_for(lambda: auto(fake).json()["model"] == "original")
    wait_for(lambda: answer_under_load(fake).json()["model"] == "distilled")
    wait_for(lambda: auto(fake).json()["model"] == "original")


_names = (f"pinned{number}" for number in itertools.count())


def answer_under_load(fake: Fake) -> httpx.Response:
    """What `auto` answers while 40 steps are ahead of the best variant."""
    name, before = next(_names), fake.steps()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        prompt = f"hold after 0: {name}"
        pinned = pool.submit(fake.ask, prompt=prompt, model="original", num_inference_steps=40)
        wait_for(lambda: fake.steps() > before)
        loaded = pool.submit(auto, fake)
        # Had it chosen the best variant, it would wait behind what is held there.
        concurrent.futures.wait([loaded], timeout=10)
        fake.let_go(name)
        # What was pinned is never swapped.
        assert pinned.result().json()["model"] == "original"
    reply = loaded.result()
    if reply.json()["model"] == "distilled":
        assert reply.headers["x-model-reason"] == "degraded under load"
    return reply


@pytest.mark.thorough
def test_weights_follow_the_requests_id(start_fake: StartFake) -> None:
    auto = {"kind": "weighted", "weights": {"original": 1, "distilled": 1}}
    fake = start_fake("weights", 0.01, variants="original,distilled", auto=auto)

    def chosen(number: int) -> str:
        reply = fake.ask({"x-request-id": f"request-{number}"}, model="auto")
        return str(reply.json()["model"])

    first = [chosen(number) for number in range(10)]
    assert set(first) == {"original", "distilled"}
    assert [chosen(number) for number in range(10)] == first
