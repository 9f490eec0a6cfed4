"""`model: "auto"` over a denoiser that only sleeps."""

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


def post(url: str, request_id: str = "", **body: Any) -> httpx.Response:
    return httpx.post(
        f"{url}/v1/images/generations",
        json={"prompt": "x", "model": "auto", **body},
        headers={"x-request-id": request_id} if request_id else {},
        timeout=90,
    )


def start_fake(start: Start, tmp_path: Path, name: str, auto: dict[str, Any] | None) -> str:
    load = partial(load_fake, 0.1, tmp_path)
    args = AppArgs.model_validate({"num_cpus": 0, "slots": 1, "auto": auto})
    return start(compose(args, read_manifest(WEIGHTS_DIR), load), name)


def test_under_load_a_cheaper_variant_answers_and_says_so(start: Start, tmp_path: Path) -> None:
    auto = {"kind": "quality-first", "slo_s": 3, "return_after_s": 0}
    url = start_fake(start, tmp_path, "quality", auto)
    idle = post(url, num_inference_steps=10)
    assert (idle.json()["model"], idle.json()["model_reason"]) == ("original", "the best, in time")
    with concurrent.futures.ThreadPoolExecutor() as pool:
        pinned = pool.submit(post, url, model="original", num_inference_steps=80)
        time.sleep(0.5)
        loaded = post(url, num_inference_steps=10)
        assert loaded.json()["model"] == "distilled"
        assert loaded.headers["x-model-reason"] == "degraded under load"
        # What was pinned is never swapped.
        assert pinned.result().json()["model"] == "original"
    post(url, num_inference_steps=10)  # Shows it that original is well in time again.
    assert post(url, num_inference_steps=10).json()["model"] == "original"
    hasty = post(url, num_inference_steps=10, deadline_s=2)
    assert hasty.status_code == 200


def test_weights_follow_the_requests_id(start: Start, tmp_path: Path) -> None:
    auto = {"kind": "weighted", "weights": {"original": 1, "distilled": 1}}
    url = start_fake(start, tmp_path, "weights", auto)
    ids = [f"request-{index}" for index in range(10)]
    chosen = [post(url, one, num_inference_steps=1).json()["model"] for one in ids]
    assert set(chosen) == {"original", "distilled"}
    assert [post(url, one, num_inference_steps=1).json()["model"] for one in ids] == chosen


def test_without_a_policy_there_is_no_auto(start: Start, tmp_path: Path) -> None:
    url = start_fake(start, tmp_path, "no-auto", None)
    refused = post(url)
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


def test_a_shadow_is_compared_and_never_answered(start: Start, tmp_path: Path) -> None:
    load = partial(load_fake, 0.02, tmp_path)
    shadow = {"variant": "distilled", "share": 1.0}
    args = AppArgs.model_validate({"num_cpus": 0, "slots": 1, "shadow": shadow})
    url = start(compose(args, read_manifest(WEIGHTS_DIR), load), "shadow")
    before = (tmp_path / "distilled").read_text().count("step")
    reply = post(url, model="original", num_inference_steps=7)
    assert (reply.json()["model"], len(reply.json()["data"])) == ("original", 1)
    end = time.monotonic() + 20
    while (tmp_path / "distilled").read_text().count("step") < before + 7:
        assert time.monotonic() < end, "no shadow was drawn"
        time.sleep(0.05)
