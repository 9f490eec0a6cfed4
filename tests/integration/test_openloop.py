"""The open loop against a service with a known latency and a known stall."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests import arrivals, closedloop, openloop
from loadtests.client import connected
from loadtests.samples import Sample, percentile, summarize
from loadtests.workload import Workload
from tests import virtual_time
from tests.commands import run_main
from tests.fake_service import FakeService, direct, serving
from tests.machine import HANG_S, ROOT, free_port, wait_for

WORKLOAD = Workload.shipped("miniature")


def fire(service: FakeService, schedule_s: list[float]) -> list[Sample]:
    """In virtual time, so that latencies are exact."""

    async def run() -> list[Sample]:
        async with direct(service) as client:
            return await openloop.run(client, schedule_s, WORKLOAD, "distilled")

    return virtual_time.run(run())


def fire_at(url: str, schedule_s: list[float], timeout_s: float = HANG_S) -> list[Sample]:
    async def run() -> list[Sample]:
        async with connected(url, timeout_s) as client:
            return await openloop.run(client, schedule_s, WORKLOAD, "distilled")

    return asyncio.run(run())


def test_it_measures_the_latency_that_is_there() -> None:
    service = FakeService(latency_s=0.05)
    summary = summarize(fire(service, arrivals.constant(20, 3)), 3, slo_s=0.06)
    assert (summary.ok, summary.failed, summary.within_slo) == (60, 0, 1.0)
    assert summary.p50_s == pytest.approx(0.05)
    assert summary.worst_s == pytest.approx(0.05)
    assert summary.achieved_per_s == pytest.approx(20)


def test_a_stall_shows_in_the_open_loop_and_hides_in_a_closed_one() -> None:
    service = FakeService(latency_s=0.02, stall_s=(2.0, 3.5))
    samples = fire(service, arrivals.constant(20, 5))
    in_time_order = sorted(samples, key=lambda sample: sample.scheduled_s)
    # Requests went on during the stall, and each waited for its end.
    stalled = [sample for sample in in_time_order if 2.01 < sample.scheduled_s < 3.49]
    assert len(stalled) == 29
    for sample in stalled:
        assert sample.latency_s == pytest.approx(3.5 - sample.scheduled_s + 0.02)
    open_p90_s = percentile([sample.latency_s for sample in samples], 90)

    async def one_user() -> list[Sample]:
        async with direct(FakeService(latency_s=0.02, stall_s=(2.0, 3.5))) as client:
            return await closedloop.run(client, 1, 175, WORKLOAD, "distilled")  # Five seconds.

    closed_p90_s = percentile([sample.latency_s for sample in virtual_time.run(one_user())], 90)
    assert open_p90_s is not None
    assert closed_p90_s is not None
    assert open_p90_s > 0.9
    assert closed_p90_s < 0.03


def test_requests_arrive_as_scheduled_whatever_has_come_back() -> None:
    service, schedule_s = FakeService(latency_s=1.5), arrivals.constant(20, 1)
    fire(service, schedule_s)
    assert service.arrived_s == pytest.approx(schedule_s)
    assert [body["seed"] for body in service.asked] == [
        WORKLOAD.body(index, "distilled")["seed"] for index in range(20)
    ]


def test_rejections_and_wrong_pictures_are_told_apart() -> None:
    with serving(FakeService(reject_every=5, wrong_every=4)) as service:
        samples = fire_at(service.url, arrivals.constant(40, 0.5))
    by = {sample.outcome for sample in samples}
    rejected = [sample for sample in samples if sample.outcome == "rejected"]
    failed = [sample for sample in samples if sample.outcome == "failed"]
    assert by == {"ok", "rejected", "failed"}
    assert len(rejected) == 4
    assert {sample.retry_after_s for sample in rejected} == {7}
    assert len(failed) == 4  # The twentieth was rejected before it could be wrong.
    assert all("was asked for" in sample.reason for sample in failed)


def test_a_service_that_is_not_there_is_a_failure_of_each_request() -> None:
    samples = fire_at(f"http://127.0.0.1:{free_port()}", [0, 0.01])
    assert [sample.outcome for sample in samples] == ["failed", "failed"]
    assert "Connect" in samples[0].reason


def test_a_request_that_takes_too_long_is_a_failure() -> None:
    with serving(FakeService(latency_s=60)) as service:
        samples = fire_at(service.url, [0.0], timeout_s=0.2)
    assert samples[0].outcome == "failed"
    assert "Timeout" in samples[0].reason


def command(service: FakeService, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "loadtests.openloop", "--host", service.url, *arguments]


def test_the_command_prints_a_summary_and_keeps_raw_samples(tmp_path: Path) -> None:
    out = tmp_path / "samples.jsonl"
    arguments = ["--rate", "20", "--duration", "1", "--slo", "100", "--out", str(out)]
    with serving(FakeService()) as service:
        done = subprocess.run(
            command(service, *arguments),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            env={**os.environ, "DSD_API_KEY": "k"},
        )
    assert done.stdout, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    # On a busy machine requests may be fired late, which it says.
    assert done.returncode == (1 if summary["void"] else 0)
    samples = [json.loads(line) for line in out.read_text().splitlines()]
    assert summary["ok"] == summary["requests"] == len(samples) > 5
    assert "is not decided" in done.stdout  # Fewer than a hundred samples.
    assert service.keys == {"Bearer k"}
    latencies_s = sorted(sample["done_s"] - sample["scheduled_s"] for sample in samples)
    assert summary["worst_s"] == pytest.approx(latencies_s[-1])


def test_ctrl_c_keeps_what_was_measured() -> None:
    with serving(FakeService(answer_none_from=20)) as service:
        process = subprocess.Popen(
            command(service, "--rate", "20", "--duration", "600"),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        wait_for(lambda: len(service.asked) >= 40)
        os.kill(process.pid, signal.SIGINT)
        output, _ = process.communicate(timeout=HANG_S)
    summary = json.loads(output.splitlines()[-1])
    assert process.returncode == 1
    assert summary["interrupted"] is True
    assert summary["ok"] > 5
    assert summary["unfinished"] > 0
    assert "INTERRUPTED" in output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--rate", "0"], "--rate: 0.0 was given", id="rate"),
        pytest.param(["--duration", "nan"], "--duration: nan was given", id="duration"),
        pytest.param(["--arrivals", "/nowhere.csv"], "/nowhere.csv", id="trace"),
        pytest.param(["--steps", "x"], "--steps: 'x' was given", id="steps"),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments: list[str], complaint: str) -> None:
    done = run_main(openloop.main, "--host", "http://127.0.0.1:9", *arguments)
    assert done.returncode == 2
    assert complaint in done.stderr.splitlines()[-1]
