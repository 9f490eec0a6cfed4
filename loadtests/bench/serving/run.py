"""A whole run: contenders take turns, round by round."""

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import aiohttp
import psutil
from ray.serve import Application

from serve.config import AppArgs
from serve.generation import LOSSLESS_PNG
from serve.replica.encoding import encode
from serve.replica_info import cpu_name

from ...closedloop import at_once
from ...fixed_step import build_fixed_step_app
from ...local_serve import local_serve
from ...machine import commit
from ...rounds import Spread, rotated
from ..bars import Bar, Finding
from .apps import VARIANT, PhotoSteps, instant_app, photo
from .contenders import Ask, EngineAlone, Work, fastapi_floor, over_http
from .cpu import Account

# Eight images in 0.4 s are 20 a second: more than one device draws at 512x512 and 25 steps.
STEP_S, SLOTS = 0.016, 8
# Of one user; the default picture.
SINGLE = Work(steps=10)
# Encoding PNGs of that size would take most of two cores.
SATURATED = Work(steps=25, output_format="jpeg")
INSTANT = Work(steps=1, least_bytes=1000)
EDITED_PX = 512
# Two wait for each that is drawn: the queue never runs empty.
USERS_A_SLOT = 3
ROUTER_USERS = 8
# Enough to keep every replica busy while a picture is on its way.
USERS_A_REPLICA = 4
MOST_ADDED_MS = 10.0
LEAST_THROUGHPUT = 0.95
# Cores that others may use. What more they take, they take from both contenders, but not evenly.
MOST_OTHERS = 0.2
# Fewer quiet rounds decide nothing.
_QUIET_ROUNDS = 3
_READY_S = 120


@dataclass(frozen=True)
class ServingRun:
    """How much of what, in each of the rounds.

    `single` requests of one user; `waves` of pictures that fill the slots; `router` requests to
    each server of the router-only part; `replicas` are compared, with `requests_a_user`.
    """

    rounds: int = 5
    single: int = 20
    waves: int = 20
    router: int = 2000
    replicas: tuple[int, ...] = (1, 2, 4)
    requests_a_user: int = 5


@dataclass(frozen=True)
class Measurement:
    """One contender in one round.

    `cpu_ms` are CPU milliseconds a request, by role; `others` as of `Account.close`.
    """

    p50_ms: float
    per_s: float
    cpu_ms: Mapping[str, float]
    others: float


Rounds = dict[str, list[Measurement]]


def measure(run: ServingRun, progress: Callable[[str], object]) -> dict[str, Any]:
    """Start everything, measure, and end it; returns the result in JSON's types.

    Raises:
        RuntimeError: something doesn't start.
        ExceptionGroup: of RuntimeErrors, for answers that are anything but a picture.
    """
    load = psutil.getloadavg()[0]
    progress("Starting Ray and Serve ...")
    with local_serve(num_gpus=max(run.replicas)) as url:
        parts = asyncio.run(_measure_all(run, url, progress))
    return {
        "benchmark": "serving",
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit(),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "load_before": load,
        "run": asdict(run),
        "bars": [asdict(bar) for bar in bars(parts)],
        "parts": {
            part: {name: [asdict(measured) for measured in each] for name, each in found.items()}
            for part, found in parts.items()
        },
    }


async def _measure_all(
    run: ServingRun, url: str, progress: Callable[[str], object]
) -> dict[str, Rounds]:
    """Every part in turn."""

    async def in_turn(part: str, asks: Mapping[str, Ask], users: int, requests: int) -> Rounds:
        for ask in asks.values():  # Opens connections, and loads code.
            await at_once(ask, users, range(2 * users))
        found: Rounds = {name: [] for name in asks}
        for round_ in range(run.rounds):
            progress(f"{part}, round {round_ + 1} of {run.rounds} ...")
            for name in rotated(asks, round_):
                found[name].append(await _measured(asks[name], users, requests))
        return found

    parts: dict[str, Rounds] = {}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        service = f"{url}/fixed-step"
        await _deploy(_fixed_step_app(SLOTS), session, service)
        engine = EngineAlone(STEP_S, SLOTS)
        single = {
            "engine": engine.ask(SINGLE, encode=True),
            "JSON": over_http(session, service, SINGLE),
            "bytes": over_http(session, service, replace(SINGLE, raw=True)),
        }
        saturated = {
            "engine": engine.ask(SATURATED, encode=False),
            "JSON": over_http(session, service, SATURATED),
        }
        parts["single"] = await in_turn("one user", single, 1, run.single)
        users = USERS_A_SLOT * SLOTS
        parts["saturated"] = await in_turn("saturated", saturated, users, run.waves * SLOTS)
        engine.close()
        await _deploy(instant_app(), session, f"{url}/instant")
        router = over_http(session, f"{url}/instant", INSTANT)
        with fastapi_floor(await router(7)) as floor_url:
            await _until_ready(session, f"{floor_url}/docs")
            asks = {"FastAPI": over_http(session, floor_url, INSTANT), "router": router}
            parts["router"] = await in_turn("the router", asks, ROUTER_USERS, run.router)
        picture = encode(photo(EDITED_PX), LOSSLESS_PNG)
        edit = over_http(session, f"{url}/instant", replace(INSTANT, edited=picture))
        asks = {"generation": router, "edit": edit}
        # Ten times as many as with steps: these take about a tenth of the time.
        parts["edits"] = await in_turn("edits", asks, 1, 10 * run.single)
        parts["replicas"] = {str(count): [] for count in run.replicas}
        ask = over_http(session, f"{url}/replicas", SATURATED)
        for round_ in range(run.rounds):
            progress(f"replicas, round {round_ + 1} of {run.rounds} ...")
            for count in run.replicas:
                # A fixed step takes as long for many images as for one: with slots it has no limit.
                await _deploy(_fixed_step_app(1, count), session, f"{url}/replicas")
                users = USERS_A_REPLICA * count
                await at_once(ask, users, range(users))
                measured = await _measured(ask, users, users * run.requests_a_user)
                parts["replicas"][str(count)].append(measured)
    return parts


async def _measured(ask: Ask, users: int, requests: int) -> Measurement:
    account, started_at = Account(), time.perf_counter()
    latencies_s = await at_once(ask, users, range(requests))
    seconds = time.perf_counter() - started_at
    cpu_s, others = account.close()
    return Measurement(
        p50_ms=1000 * statistics.median(latencies_s),
        per_s=requests / seconds,
        cpu_ms={role: 1000 * spent_s / requests for role, spent_s in cpu_s.items()},
        others=others,
    )


def _fixed_step_app(slots: int, num_replicas: int = 1) -> Application:
    args = AppArgs(
        variants=(VARIANT,),
        num_replicas=num_replicas,
        num_cpus=0,
        slots=slots,
        # Nothing is refused.
        max_queued_requests=256,
        max_ongoing_requests=16 * slots,
    )
    return build_fixed_step_app(args, STEP_S, PhotoSteps)


async def _deploy(app: Application, session: aiohttp.ClientSession, url: str) -> None:
    """Start an application, or change it, and wait until the proxy has learnt of it."""
    from ray import serve

    name = url.rsplit("/", 1)[1]
    await asyncio.to_thread(serve.run, app, name=name, route_prefix=f"/{name}")
    await _until_ready(session, f"{url}/healthz")


async def _until_ready(session: aiohttp.ClientSession, url: str) -> None:
    end_at = time.monotonic() + _READY_S
    while time.monotonic() < end_at:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(url) as response:
                if response.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{url} does not answer")


def added_ms(service: Sequence[Measurement], engine: Sequence[Measurement]) -> list[float]:
    """What the p50 of the service, or of edits, has more than the other's, round by round."""
    return [ours.p50_ms - alone.p50_ms for ours, alone in zip(service, engine, strict=True)]


def throughput(
    contender: Sequence[Measurement], against: Sequence[Measurement], times: int = 1
) -> list[float]:
    """Requests a second in as many times another's, round by round."""
    pairs = zip(contender, against, strict=True)
    return [ours.per_s / (times * theirs.per_s) for ours, theirs in pairs]


def bars(parts: Mapping[str, Rounds]) -> list[Bar]:
    """What the service must keep of the engine alone."""
    single, saturated = parts["single"], parts["saturated"]
    added = _over_quiet_rounds(added_ms, single["JSON"], single["engine"])
    share = _over_quiet_rounds(throughput, saturated["JSON"], saturated["engine"])
    return [
        Bar.at_most("added to one user's p50, beyond encoding", MOST_ADDED_MS, " ms", added),
        Bar.at_least("throughput at saturation, in the engine's own", LEAST_THROUGHPUT, "", share),
    ]


def _over_quiet_rounds(
    compare: Callable[[Sequence[Measurement], Sequence[Measurement]], list[float]],
    service: Sequence[Measurement],
    engine: Sequence[Measurement],
) -> Finding:
    """Over the rounds that other processes left undisturbed; no figure where those are too few."""
    quiet = [
        figure
        for figure, *measured in zip(compare(service, engine), service, engine, strict=True)
        if all(each.others <= MOST_OTHERS for each in measured)
    ]
    rounds = f"{len(quiet)} of {len(engine)} rounds quiet"
    if len(quiet) < _QUIET_ROUNDS:
        found = Spread.of(compare(service, engine))
        return f"{found.text()}, {rounds}, and it takes {_QUIET_ROUNDS}"
    found = Spread.of(quiet)
    return found.median, f"{found.text()}, {rounds}"
