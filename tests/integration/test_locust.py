"""The Locust users against a service that refuses and errs, run as any Locust user runs them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_service import FakeService, serving
from tests.machine import HANG_S, ROOT, free_port, wait_for

PATH = "/v1/images/generations"
LOCUSTFILE = "loadtests/locustfile.py"
REPLAY = "loadtests/trace_replay.py"
VARIANTS = ["original", "distilled", "distilled-tiny-vae", "original-lcm-tiny-vae", "my-style"]


def command(service: FakeService, *arguments: str, files: str = LOCUSTFILE) -> list[str]:
    return [sys.executable, "-m", "locust", "-f", files, "--host", service.url, *arguments]


def run(
    service: FakeService,
    *arguments: str,
    until: Callable[[], object] | None = None,
    files: str = LOCUSTFILE,
) -> tuple[dict[str, dict[str, Any]], str]:
    """Run headless until a fact, or to its own end; Locust's statistics by row, and its words."""
    process = subprocess.Popen(
        command(service, "--headless", "--json", *arguments, files=files),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if until is not None:
            wait_for(lambda: until() or process.poll() is not None)
            process.send_signal(signal.SIGTERM)
        found, words = process.communicate(timeout=HANG_S)
    finally:
        process.kill()
    assert "Traceback" not in words, words
    return {row["name"]: row for row in json.loads(found)}, words


@contextmanager
def started(*command: str) -> Iterator[None]:
    """A process beside the test, ended with it."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(HANG_S)


def users(count: int) -> list[str]:
    return ["-u", str(count), "-r", str(count), "-t", "1h"]


def test_each_class_asks_its_variant_and_has_its_row() -> None:
    classes = ["OriginalUser", "DistilledUser", "DistilledTinyVaeUser", "OriginalLcmTinyVaeUser"]
    classes += ["AnyVariantUser", "--variant", "my-style"]
    with serving(FakeService()) as service:

        def seeds(variant: str) -> list[int]:
            return [body["seed"] for body in service.asked if body["model"] == variant]

        found, _ = run(
            service, *users(5), "--steps", "7", "--key", "secret", *classes,
            until=lambda: min(map(len, map(seeds, VARIANTS))) > 5,
        )  # fmt: skip
    assert set(found) == {f"{PATH} [{variant}]" for variant in VARIANTS}
    assert all(row["num_failures"] == 0 for row in found.values())
    assert {body["num_inference_steps"] for body in service.asked} == {7}
    assert service.keys == {"Bearer secret"}
    # No request is repeated within a class.
    assert len(seeds("original")) == len(set(seeds("original")))


def test_a_429_has_a_row_of_its_own_and_a_wrong_picture_is_a_failure() -> None:
    with serving(FakeService(reject_every=5, wrong_every=3)) as service:
        found, words = run(
            service, *users(1), "DistilledUser", until=lambda: len(service.asked) > 20
        )
    refused, drawn = found[f"{PATH} [distilled] 429"], found[f"{PATH} [distilled]"]
    # The last request may have been cut off.
    count = len(service.asked)
    assert refused["num_requests"] in (count // 5, (count - 1) // 5)
    assert refused["num_failures"] == 0
    wrong = [number for number in range(1, count + 1) if not number % 3 and number % 5]
    assert drawn["num_failures"] in (len(wrong), len(wrong) - (wrong[-1] == count))
    assert "another seed" in words


@pytest.mark.parametrize("user", ["DistilledUser", "StreamingUser"])
def test_retry_after_is_honoured_when_told(user: str) -> None:
    with serving(FakeService(reject_every=2, retry_after_s=1)) as service:
        arguments = [*users(1), user, "--honour-retry-after"]
        run(service, *arguments, until=lambda: len(service.asked) > 2)
    _, refused_s, again_s = service.arrived_s[:3]
    assert again_s - refused_s >= 1


def test_a_stream_that_is_later_than_the_slo_is_a_failure() -> None:
    with serving(FakeService()) as service:
        # A slash at the end of the host makes no other path.
        arguments = ["--host", f"{service.url}/", "--slo", "0.0001", "StreamingUser"]
        found, words = run(service, *users(1), *arguments, until=lambda: len(service.asked) > 2)
    whole = found[f"{PATH} [distilled, stream]"]
    assert 0 < whole["num_requests"] == whole["num_failures"]
    assert "slower than the SLO of 0.0001 s" in words


def test_mixed_steps_have_a_row_each_and_a_stream_one_for_its_previews() -> None:
    arguments = [*users(2), "--mixed-variant", "original", "--previews", "2"]
    with serving(FakeService(preview_s=0.2)) as service:
        found, _ = run(
            service, *arguments, "MixedStepsUser", "StreamingUser",
            until=lambda: sum("stream" in body for body in service.asked) > 2
            and sum("stream" not in body for body in service.asked) > 3,
        )  # fmt: skip
    assert all(row["num_failures"] == 0 for row in found.values())
    assert {f"{PATH} [original, {steps} steps]" for steps in (10, 25, 50)} < set(found)
    whole, first = found[f"{PATH} [original, stream]"], found["first preview [original]"]
    between = found["between events [original]"]
    assert {body.get("partial_images") for body in service.asked} == {None, 2}
    assert between["num_requests"] == 2 * whole["num_requests"] == 2 * first["num_requests"]
    # A preview each 0.2 s, then the picture; read only when whole, all would seem to come at once.
    assert whole["min_response_time"] >= 600
    assert first["min_response_time"] < 2 * whole["min_response_time"] / 3


def test_edits_are_sent_with_a_picture_and_have_rows_of_their_route() -> None:
    with serving(FakeService()) as service:
        arguments = [*users(1), "EditUser", "--mixed-variant", "original"]
        found, _ = run(service, *arguments, until=lambda: len(service.asked) > 3)
    assert set(found) == {"/v1/images/edits [original]"}
    assert all(row["num_failures"] == 0 for row in found.values())
    assert all(body["edited"] for body in service.asked)


def test_auto_has_a_row_for_each_variant_that_answered_and_why() -> None:
    fake = FakeService(latency_s=0.0, serial_s={"original": 0.1, "distilled": 0.05}, auto_slo_s=0.2)
    with serving(fake) as service:
        found, _ = run(
            service, *users(4), "AutoUser",
            until=lambda: min(fake.answered[name] for name in fake.serial_s) > 5,
        )  # fmt: skip
    assert set(found) == {
        f"{PATH} [auto: original, the best, in time]",
        f"{PATH} [auto: distilled, degraded under load]",
    }
    assert all(row["num_failures"] == 0 for row in found.values())
    assert {body["model"] for body in service.asked} == {"auto"}


def test_what_is_late_cut_off_or_answered_by_nobody_is_a_failure() -> None:
    arguments = [*users(3), "--slo", "0.01", "--mixed-variant", "original"]
    # It answers in the name of what was asked for: also of `auto`.
    with serving(FakeService(latency_s=0.1, break_streams=True)) as service:

        def finished(model: str) -> bool:
            return sum(body["model"] == model for body in service.asked) > 2

        found, words = run(
            service, *arguments, "DistilledUser", "StreamingUser", "AutoUser",
            until=lambda: all(map(finished, ("distilled", "original", "auto"))),
        )  # fmt: skip
    assert len(found) == 3
    for row in found.values():
        assert row["num_failures"] == row["num_requests"] > 0
    assert "slower than the SLO of 0.01 s" in words
    assert "the stream broke off" in words
    assert "doesn't say which variant answered" in words


@pytest.mark.parametrize(
    "tags",
    [
        pytest.param(["--tags", "original"], id="tags"),
        pytest.param(
            [
                "--exclude-tags",
                "distilled",
                "distilled-tiny-vae",
                "mixed",
                "streaming",
                "auto",
                "edit",
            ],
            id="exclude-tags",
        ),
    ],
)
def test_tags_choose_a_variant(tags: list[str]) -> None:
    with serving(FakeService()) as service:
        run(service, *users(2), *tags, until=lambda: len(service.asked) > 10)
    assert {body["model"] for body in service.asked} == {"original"}


@pytest.mark.parametrize(
    ("files", "arguments", "complaint"),
    [
        pytest.param(LOCUSTFILE, ["--slo", "x"], "argument --slo", id="slo"),
        pytest.param(
            REPLAY, ["--trace", "/nowhere.csv"], "distilled-sd-serve: trace: ", id="trace"
        ),
    ],
)
def test_bad_arguments_are_refused_by_name(
    files: str, arguments: list[str], complaint: str
) -> None:
    nowhere = FakeService(url="http://127.0.0.1:9")
    done = subprocess.run(
        command(nowhere, "--headless", *arguments, files=files),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode != 0
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_a_trace_is_fired_as_it_is_whatever_has_come_back(tmp_path: Path) -> None:
    trace = tmp_path / "trace.csv"
    offsets_s = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 1.0, 1.5]
    trace.write_text("arrival_s\n" + "".join(f"{100 + at_s}\n" for at_s in offsets_s))
    arguments = ["--trace", str(trace), "--variant", "original"]
    # In a closed loop the second request would wait for the first one's answer for ever.
    with serving(FakeService(answer_from=len(offsets_s))) as service:
        found, _ = run(service, *arguments, files=REPLAY)
    (drawn,) = found.values()
    assert drawn["name"] == f"{PATH} [original]"
    assert (drawn["num_requests"], drawn["num_failures"]) == (len(offsets_s), 0)
    assert drawn["max_response_time"] >= 1500  # The first one's, which waited for the last.
    for arrived_s, offset_s in zip(service.arrived_s, offsets_s, strict=True):
        assert arrived_s - service.arrived_s[0] > offset_s - 0.1


@pytest.mark.thorough
def test_processes_share_the_load_and_ask_for_different_requests() -> None:
    port = free_port()
    ports = [f"--master-bind-port={port}", f"--master-port={port}"]
    with serving(FakeService()) as service:
        arguments = ["--headless", *users(2), "--processes", "2", *ports, "OriginalUser"]
        with started(*command(service, *arguments)):
            wait_for(lambda: len(service.asked) > 20)
    assert service.most_at_once == 2
    seeds = [body["seed"] for body in service.asked]
    assert len(seeds) == len(set(seeds))


@pytest.mark.thorough
def test_a_master_and_a_worker_of_its_own_share_the_statistics() -> None:
    port = free_port()
    worker = ["--worker", f"--master-port={port}", "OriginalUser"]
    master = ["--master", f"--master-bind-port={port}", "--expect-workers=1"]
    timed = ["-u", "2", "-r", "2", "-t", "10s", "OriginalUser"]
    with serving(FakeService()) as service, started(*command(service, *worker)):
        found, _ = run(service, *master, *timed)
    (row,) = found.values()
    assert row["num_requests"] > 0
    assert row["num_failures"] == 0


@pytest.mark.thorough
def test_a_shape_decides_users_and_end() -> None:
    shape = ["--load-shape", "step", "--peak", "4", "--shape-seconds", "8"]
    with serving(FakeService(latency_s=0.2)) as service:
        found, _ = run(service, "OriginalUser", *shape, files=f"{LOCUSTFILE},loadtests/shapes.py")
    assert found[f"{PATH} [original]"]["num_failures"] == 0
    assert service.most_at_once == 4


@pytest.mark.thorough
def test_the_web_page_starts() -> None:
    port = free_port()

    def answered() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        except httpx.ConnectError:
            return False

    web = ["--web-host", "127.0.0.1", "--web-port", str(port)]
    with serving(FakeService()) as service, started(*command(service, *web)):
        wait_for(answered)
