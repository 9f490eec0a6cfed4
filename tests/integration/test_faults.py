"""Overload, dying replicas and leaving clients, over a denoiser that only sleeps."""

import concurrent.futures
import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from ray import serve
from ray.serve import Application

from serve.app import AppArgs, compose
from serve.miniature import WEIGHTS_DIR
from serve.weights.manifest import read_manifest
from tests.fakes import load_fake

# `VariantReplica` times four steps, then draws twice with two, before it is ready.
WARM_UP_STEPS = 8
Start = Callable[[Application, str], str]


def wait_for(condition: Callable[[], bool], deadline_s: float = 30.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the deadline passed"
        time.sleep(0.02)


def post(url: str, timeout_s: float = 60.0, **body: Any) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/images/generations", json={"prompt": "x", **body}, timeout=timeout_s
    )


def steps_in(journal: Path) -> int:
    return journal.read_text().count("step") if journal.exists() else 0


def kill_while_it_draws(tmp_path: Path) -> None:
    """Kill the current replica once it is some steps into a request."""
    journal, pid_file = tmp_path / "original", tmp_path / "original.pid"
    journal.unlink(missing_ok=True)
    wait_for(lambda: steps_in(journal) > WARM_UP_STEPS + 2)
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def start_fake(start: Start, tmp_path: Path, name: str, step_s: float, **args: Any) -> str:
    fields: dict[str, Any] = {"variants": "original", "num_cpus": 0, "slots": 1, **args}
    load = partial(load_fake, step_s, tmp_path)
    return start(compose(AppArgs(**fields), read_manifest(WEIGHTS_DIR), load), name)


def test_a_full_queue_answers_429_with_retry_after(start: Start, tmp_path: Path) -> None:
    url = start_fake(
        start, tmp_path, "full", 0.1, max_ongoing_requests=1, max_queued_requests=2, retry_after_s=7
    )
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: post(url, num_inference_steps=10), range(12)))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 429}
    # Two queued, one of them drawn at once; more where a place fell free meanwhile.
    assert 2 <= statuses.count(200) <= 6
    for reply in replies:
        if reply.status_code == 429:
            assert reply.headers["retry-after"] == "7"
            assert reply.json()["error"]["code"] == "overloaded"
            assert reply.json()["error"]["type"] == "rate_limit_error"
    assert post(url).status_code == 200


def test_a_client_that_leaves_stops_the_denoising(start: Start, tmp_path: Path) -> None:
    url = start_fake(start, tmp_path, "leaving", 0.1)
    journal = tmp_path / "original"
    warm = steps_in(journal)
    leave(url, json.dumps({"prompt": "x", "num_inference_steps": 100}).encode())
    assert post(url, num_inference_steps=1).status_code == 200
    # About ten steps in a second; the last one is the second request's.
    assert steps_in(journal) - warm < 30


def leave(url: str, body: bytes) -> None:
    """Send a request, its body in a packet of its own, and leave before its answer."""
    parts = urlsplit(url)
    assert parts.hostname
    connection = http.client.HTTPConnection(parts.hostname, parts.port)
    connection.putrequest("POST", f"{parts.path}/v1/images/generations")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    time.sleep(0.2)
    connection.send(body)
    time.sleep(1)
    connection.close()


def test_a_deadline_is_refused_or_kept_or_told_to_be_over(start: Start, tmp_path: Path) -> None:
    url = start_fake(start, tmp_path, "deadlines", 0.05)
    refused = post(url, num_inference_steps=100, deadline_s=1)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "deadline_unreachable")
    # About five seconds of work, in one.
    assert 2 <= int(refused.headers["retry-after"]) <= 10
    kept = post(url, num_inference_steps=5, deadline_s=30)
    assert kept.status_code == 200
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # Two slots would let both pass; with one the second comes too late by what the first takes.
        first = pool.submit(post, url, num_inference_steps=80)
        journal = tmp_path / "original"
        before = steps_in(journal)
        wait_for(lambda: steps_in(journal) > before + 2)
        waiting = post(url, num_inference_steps=1, deadline_s=0.2)
        assert waiting.status_code in (429, 504)
        assert first.result().status_code == 200


def test_several_variants_can_share_a_replica(start: Start, tmp_path: Path) -> None:
    url = start_fake(start, tmp_path, "packed", 0.01, variants="", packed=True, slots=4)
    for variant in ("original", "distilled", "distilled-tiny-vae"):
        reply = post(url, model=variant, seed=5)
        assert (reply.status_code, reply.json()["model"]) == (200, variant)
    assert httpx.get(f"{url}/readyz").json()["warm_replicas"] == {
        "original": 1,
        "distilled": 1,
        "distilled-tiny-vae": 1,
    }
    assert len(list(tmp_path.glob("*.pid"))) == 1


def test_a_replica_that_dies_is_replaced_and_the_request_answered(
    start: Start, tmp_path: Path
) -> None:
    url = start_fake(start, tmp_path, "dying", 0.1)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reply = pool.submit(post, url, num_inference_steps=20, seed=9)
        kill_while_it_draws(tmp_path)
        assert reply.result().status_code == 200
        assert reply.result().json()["data"][0]["seed"] == 9


def test_a_request_that_kills_two_replicas_gets_503_with_retry_after(
    start: Start, tmp_path: Path
) -> None:
    url = start_fake(start, tmp_path, "dying-twice", 0.1)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        reply = pool.submit(post, url, num_inference_steps=50)
        kill_while_it_draws(tmp_path)
        kill_while_it_draws(tmp_path)
        assert reply.result().status_code == 503
        assert reply.result().json()["error"]["code"] == "variant_unavailable"
        assert int(reply.result().headers["retry-after"]) >= 1
    # Not ready until the replica is back.
    wait_for(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 200, 60)
    assert post(url).status_code == 200


@pytest.mark.parametrize(
    ("num_gpus", "devices"),
    [
        pytest.param(0, [{""}], id="none"),
        pytest.param(0.33, [{"0"}, {"1"}, {"2"}], id="a-fraction-each-on-one-gpu"),
        pytest.param(1, [{"0", "1", "2"}], id="one-each"),
    ],
)
def test_placement_follows_the_gpus_asked_for(
    start: Start, tmp_path: Path, num_gpus: float, devices: list[set[str]]
) -> None:
    start_fake(start, tmp_path, "gpus", 0.0, variants="", num_gpus=num_gpus)
    assert {path.read_text() for path in tmp_path.glob("*.gpu")} in devices
    serve.delete("gpus")
