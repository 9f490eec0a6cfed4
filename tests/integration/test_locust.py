"""The Locust users against a service that refuses and errs, run as any Locust user runs them."""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.fake_service import FakeService, serving
from tests.integration.conftest import ROOT, free_port

PATH = "/v1/images/generations"
LOCUSTFILE = "loadtests/locustfile.py"
REPLAY = "loadtests/trace_replay.py"


def command(service: FakeService, *arguments: str, files: str = LOCUSTFILE) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", files, "--host", service.url, *arguments]


def rows(
    service: FakeService, tmp_path: Path, *arguments: str, files: str = LOCUSTFILE
) -> dict[str, dict[str, str]]:
    """Run headless and read the statistics that Locust writes, by row name."""
    out = ["--headless", "--only-summary", "--csv", str(tmp_path / "run")]
    done = subprocess.run(
        command(service, *out, *arguments, files=files),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    with (tmp_path / "run_stats.csv").open(newline="") as lines:
        return {row["Name"]: row for row in csv.DictReader(lines)}


def failures(tmp_path: Path) -> set[str]:
    with (tmp_path / "run_failures.csv").open(newline="") as lines:
        return {row["Error"] for row in csv.DictReader(lines)}


def test_each_class_asks_its_variant_and_has_its_row(tmp_path: Path) -> None:
    classes = ["OriginalUser", "DistilledUser", "DistilledTinyVaeUser"]
    arguments = ["-u", "3", "-r", "3", "-t", "2s", "--steps", "7", "--key", "secret"]
    with serving(FakeService()) as service:
        found = rows(service, tmp_path, *arguments, *classes)
    assert set(found) == {
        f"{PATH} [original]", f"{PATH} [distilled]", f"{PATH} [distilled-tiny-vae]", "Aggregated",
    }  # fmt: skip
    assert all(int(row["Failure Count"]) == 0 for row in found.values())
    assert {body["num_inference_steps"] for body in service.asked} == {7}
    assert service.keys == {"Bearer secret"}
    # No request is repeated within a class.
    seeds = [body["seed"] for body in service.asked if body["model"] == "original"]
    assert len(seeds) == len(set(seeds)) > 5


def test_a_429_has_a_row_of_its_own_and_a_wrong_picture_is_a_failure(tmp_path: Path) -> None:
    arguments = ["-u", "1", "-r", "1", "-t", "2s", "DistilledUser"]
    with serving(FakeService(reject_every=5, wrong_every=3)) as service:
        found = rows(service, tmp_path, *arguments)
    refused, drawn = found[f"{PATH} [distilled] 429"], found[f"{PATH} [distilled]"]
    assert int(refused["Request Count"]) > 2
    assert int(refused["Failure Count"]) == 0
    assert int(drawn["Failure Count"]) > 2
    assert any("another seed" in reason for reason in failures(tmp_path))


def test_retry_after_is_honoured_when_told(tmp_path: Path) -> None:
    arguments = ["-u", "1", "-r", "1", "-t", "3s", "DistilledUser", "--honour-retry-after"]
    with serving(FakeService(reject_every=2)) as service:  # It asks to wait for 7 s.
        rows(service, tmp_path, *arguments)
    assert len(service.asked) == 2


def test_mixed_steps_have_a_row_each(tmp_path: Path) -> None:
    arguments = ["-u", "2", "-r", "2", "-t", "2s", "MixedStepsUser", "--mixed-variant", "original"]
    with serving(FakeService()) as service:
        found = rows(service, tmp_path, *arguments)
    assert {f"{PATH} [original, {steps} steps]" for steps in (10, 25, 50)} < set(found)


def test_auto_has_a_row_for_each_variant_that_answered_and_why(tmp_path: Path) -> None:
    arguments = ["-u", "4", "-r", "4", "-t", "3s", "AutoUser"]
    speeds = {"original": 0.1, "distilled": 0.05}
    with serving(FakeService(latency_s=0.0, serial_s=speeds, auto_slo_s=0.2)) as service:
        found = rows(service, tmp_path, *arguments)
    best = found[f"{PATH} [auto: original, the best, in time]"]
    cheap = found[f"{PATH} [auto: distilled, degraded under load]"]
    assert min(int(best["Request Count"]), int(cheap["Request Count"])) > 3
    assert all(int(row["Failure Count"]) == 0 for row in found.values())
    assert {body["model"] for body in service.asked} == {"auto"}


def test_a_service_without_auto_fails_its_users(tmp_path: Path) -> None:
    with serving(FakeService()) as service:  # It answers in the name of what was asked for.
        found = rows(service, tmp_path, "-u", "1", "-r", "1", "-t", "2s", "AutoUser")
    row = found[f"{PATH} [auto]"]
    assert row["Failure Count"] == row["Request Count"]
    assert any("doesn't say which variant answered" in reason for reason in failures(tmp_path))


def test_a_streaming_user_tells_when_previews_came(tmp_path: Path) -> None:
    arguments = ["-u", "1", "-r", "1", "-t", "3s", "StreamingUser", "--previews", "2"]
    with serving(FakeService(preview_s=0.2)) as service:
        found = rows(service, tmp_path, *arguments)
    whole, first = found[f"{PATH} [distilled, stream]"], found["first preview [distilled]"]
    between = found["between events [distilled]"]
    assert {body["partial_images"] for body in service.asked} == {2}
    assert int(whole["Failure Count"]) == 0
    # A preview each 0.2 s, then the picture; read only when whole, all would seem to come at once.
    assert float(first["Median Response Time"]) < float(whole["Median Response Time"]) / 2
    assert float(between["Min Response Time"]) > 100
    assert int(between["Request Count"]) == 2 * int(whole["Request Count"])


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        pytest.param(FakeService(break_streams=True), "the stream broke off", id="no-end"),
        pytest.param(FakeService(swallow_previews=True), "no preview came before", id="no-preview"),
    ],
)
def test_a_stream_that_is_not_whole_is_a_failure(
    tmp_path: Path, service: FakeService, reason: str
) -> None:
    arguments = ["-u", "1", "-r", "1", "-t", "2s", "StreamingUser", "--previews", "1"]
    with serving(service):
        rows(service, tmp_path, *arguments)
    assert any(reason in failure for failure in failures(tmp_path))


def test_a_reply_slower_than_the_slo_is_a_failure(tmp_path: Path) -> None:
    arguments = ["-u", "1", "-r", "1", "-t", "2s", "DistilledUser", "--slo", "0.01"]
    with serving(FakeService(latency_s=0.1)) as service:
        found = rows(service, tmp_path, *arguments)
    row = found[f"{PATH} [distilled]"]
    assert row["Failure Count"] == row["Request Count"]
    assert any("slower than the SLO of 0.01 s" in reason for reason in failures(tmp_path))


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param(["--tags", "original"], id="tags"),
        pytest.param(
            ["--exclude-tags", "distilled", "distilled-tiny-vae", "mixed", "streaming", "auto"],
            id="exclude-tags",
        ),
    ],
)
def test_tags_choose_a_variant(tmp_path: Path, tags: list[str]) -> None:
    with serving(FakeService()) as service:
        rows(service, tmp_path, "-u", "2", "-r", "2", "-t", "2s", *tags)
    assert {body["model"] for body in service.asked} == {"original"}


def test_processes_share_the_load_and_ask_for_different_requests(tmp_path: Path) -> None:
    arguments = ["-u", "2", "-r", "2", "-t", "3s", "--processes", "2", "OriginalUser"]
    with serving(FakeService()) as service:
        port = free_port()
        rows(service, tmp_path, *arguments, f"--master-bind-port={port}", f"--master-port={port}")
    seeds = [body["seed"] for body in service.asked]
    assert len(seeds) == len(set(seeds)) > 10


def test_a_master_and_a_worker_of_its_own_share_the_statistics(tmp_path: Path) -> None:
    port, classes = free_port(), ["-u", "2", "-r", "2", "-t", "3s", "OriginalUser"]
    with serving(FakeService()) as service:
        worker = subprocess.Popen(
            command(service, "--worker", f"--master-port={port}", "OriginalUser"),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            master = ["--master", f"--master-bind-port={port}", "--expect-workers=1"]
            found = rows(service, tmp_path, *master, *classes)
        finally:
            worker.terminate()
            worker.wait(20)
    assert int(found["Aggregated"]["Request Count"]) > 10
    assert int(found["Aggregated"]["Failure Count"]) == 0


def test_a_shape_decides_users_and_end(tmp_path: Path) -> None:
    shape = ["--load-shape", "step", "--peak", "4", "--shape-seconds", "4"]
    began = time.monotonic()
    with serving(FakeService(latency_s=0.2)) as service:
        found = rows(
            service, tmp_path, "OriginalUser", *shape, files=f"{LOCUSTFILE},loadtests/shapes.py"
        )
    assert time.monotonic() - began < 60
    assert int(found["Aggregated"]["Failure Count"]) == 0
    first, last = service.arrived_s[0], service.arrived_s[-1]
    early = sum(at_s - first < 1 for at_s in service.arrived_s)
    late = sum(last - at_s < 1 for at_s in service.arrived_s)
    assert late > 2 * early  # Four users at the end, one at the beginning.


def test_the_web_page_starts() -> None:
    port = free_port()
    with serving(FakeService()) as service:
        process = subprocess.Popen(
            command(service, "--web-host", "127.0.0.1", "--web-port", str(port)),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    page = httpx.get(f"http://127.0.0.1:{port}/")
                    break
                except httpx.ConnectError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            assert page.status_code == 200
        finally:
            process.terminate()
            process.wait(20)


@pytest.mark.parametrize("name", ["--slo", "--prompts"])
def test_bad_arguments_are_refused_by_name(name: str) -> None:
    done = subprocess.run(
        command(FakeService(url="http://127.0.0.1:9"), "--headless", name, "x"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"argument {name}" in done.stderr


def test_a_trace_is_fired_on_time_whatever_has_come_back(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    offsets_s = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0, 1.5]
    trace.write_text("arrival_s\n" + "".join(f"{100 + at_s}\n" for at_s in offsets_s))
    arguments = ["--headless", "--json", "--trace", str(trace), "--variant", "original"]
    with serving(FakeService(latency_s=1.0)) as service:
        done = subprocess.run(
            command(service, *arguments, files=REPLAY),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 0, done.stderr
    (drawn,) = json.loads(done.stdout)
    assert drawn["name"] == f"{PATH} [original]"
    assert (drawn["num_requests"], drawn["num_failures"]) == (len(offsets_s), 0)
    assert drawn["min_response_time"] >= 1000
    since_s = [at_s - service.arrived_s[0] for at_s in service.arrived_s]
    # In a closed loop the second would be 0.9 s late, and the last 7.5 s.
    assert since_s == pytest.approx(offsets_s, abs=0.7)


def test_a_trace_that_is_none_is_one_clear_line() -> None:
    arguments = ["--headless", "--trace", "/nowhere.csv"]
    done = subprocess.run(
        command(FakeService(url="http://127.0.0.1:9"), *arguments, files=REPLAY),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "distilled-sd-serve: trace: " in done.stderr
    assert "Traceback" not in done.stderr
