"""Which of a variant's replicas gets a request, over a denoiser that only sleeps."""

import concurrent.futures
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from ray.serve import Application

from serve.app import AppArgs, compose
from serve.miniature import WEIGHTS_DIR
from serve.weights.manifest import read_manifest
from tests.fakes import load_fake

Start = Callable[[Application, str], str]


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json={"prompt": "x", **body}, timeout=90)


def start_fake(start: Start, tmp_path: Path, name: str, **args: Any) -> str:
    load = partial(load_fake, 0.1, tmp_path)
    fields: dict[str, Any] = {"variants": "original", "num_cpus": 0, "slots": 1, **args}
    return start(compose(AppArgs(**fields), read_manifest(WEIGHTS_DIR), load), name)


def test_the_replica_with_the_least_work_ahead_is_asked(start: Start, tmp_path: Path) -> None:
    url = start_fake(start, tmp_path, "least-work", num_replicas=2)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        # Fifteen seconds of work for one of them; each has room for many requests.
        long = pool.submit(post, url, num_inference_steps=150)
        time.sleep(0.5)
        started_at = time.monotonic()
        # Two at a time: by the number of requests, the busy one would get some of them.
        short = list(pool.map(lambda _: post(url, num_inference_steps=2), range(8)))
        assert all(reply.status_code == 200 for reply in short)
        assert not long.done()
        assert time.monotonic() - started_at < 12
        assert long.result().status_code == 200


def test_a_queue_that_is_too_long_says_for_how_long(start: Start, tmp_path: Path) -> None:
    url = start_fake(start, tmp_path, "too-long", max_queue_s=3)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        ahead = pool.submit(post, url, num_inference_steps=80)
        time.sleep(1)
        refused = post(url, num_inference_steps=1)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "overloaded"
        assert "would wait about" in refused.json()["error"]["message"]
        time.sleep(int(refused.headers["retry-after"]))
        # Right: what is ahead now takes less than the three seconds that are allowed.
        assert post(url, num_inference_steps=1).status_code == 200
        assert ahead.result().status_code == 200


def test_the_servers_latest_deadline_counts_for_everyone(start: Start, tmp_path: Path) -> None:
    url = start_fake(start, tmp_path, "latest", max_request_s=1)
    for body in ({}, {"deadline_s": 600}):
        refused = post(url, num_inference_steps=100, **body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (
            429,
            "deadline_unreachable",
        )
    assert post(url, num_inference_steps=2).status_code == 200
