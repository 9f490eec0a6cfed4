"""A whole run: contenders take turns, round by round."""

import asyncio
import contextlib
import json
import os
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import psutil

from serve.http.schemas import GenerationRequest

from ..fixed_step import build_fixed_step_app
from ..local_serve import local_serve
from ..machine import commit, cpu_name
from . import contenders, instant, rivals
from .accounts import Account
from .bars import Go, added_bar, throughput_bar
from .contenders import Ask, Device, EngineAlone, Work, over_http
from .device import Painter
from .users import closed_loop, for_seconds

# Eight images in 0.4 s are 20 a second: more than one device draws at 512x512 and 25 steps.
DEVICE = Device(step_s=0.016, slots=8)
# Of one user; the default picture.
SINGLE = Work(steps=10, output_format="png")
# Encoding PNGs of that size would take most of two cores.
SATURATED = Work(steps=25, output_format="jpeg")
# Two wait for each that is drawn: the queue never runs empty.
USERS_A_SLOT = 3
ROUTER_USERS = 8
_READY_S = 120


@dataclass(frozen=True)
class Plan:
    """How much of what, in each of the rounds.

    `single` requests of one user; `waves` of pictures that fill the slots; `router_s` seconds of
    requests to each server of the router-only part.
    """

    rounds: int
    single: int
    waves: int
    router_s: float


FULL = Plan(rounds=5, single=20, waves=20, router_s=4.0)
QUICK = Plan(rounds=1, single=5, waves=3, router_s=1.0)


def measure(plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Start everything, measure, and end it; returns the result in JSON's types."""
    load = psutil.getloadavg()[0]
    tell("Starting Ray and Serve with HAProxy ...")
    with local_serve() as url:
        from ray import serve

        app = build_fixed_step_app(DEVICE.app_args(), DEVICE.step_s, Painter)
        serve.run(app, name="fixed-step")
        found = asyncio.run(_against_the_engine(plan, url, tell))
        tell("Starting instant replicas, FastAPI and LitServe ...")
        serve.run(instant.instant_app(rivals.picture()), name="instant", route_prefix="/instant")
        with contextlib.ExitStack() as running:
            urls = {"router": f"{url}/instant"} | {
                name: running.enter_context(rivals.running(name)) for name in rivals.RIVALS
            }
            found["router_only"] = asyncio.run(_router_only(plan, urls, tell))
    single, saturated = found["single"], found["saturated"]
    verdicts = [
        added_bar(single["JSON"], single["engine"]),
        throughput_bar(saturated["JSON"], saturated["engine"]),
    ]
    return {
        "benchmark": "overhead",
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit(),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "load_before": load,
        "plan": asdict(plan),
        "device": asdict(DEVICE),
        "work": {"single": asdict(SINGLE), "saturated": asdict(SATURATED)},
        "users": {"saturated": USERS_A_SLOT * DEVICE.slots, "router_only": ROUTER_USERS},
        "bars": [asdict(one) for one in verdicts],
        **{
            part: {name: [asdict(go) for go in goes] for name, goes in by_name.items()}
            for part, by_name in found.items()
        },
    }


async def _against_the_engine(
    plan: Plan, url: str, tell: Callable[[str], None]
) -> dict[str, dict[str, list[Go]]]:
    engine = EngineAlone(DEVICE)
    async with _session() as session:
        await _until_ready(session, f"{url}/readyz")
        raw = Work(SINGLE.steps, SINGLE.output_format, raw=True)
        single = {
            "engine": engine.ask(SINGLE, encode=True),
            "JSON": over_http(session, url, SINGLE),
            "bytes": over_http(session, url, raw),
        }
        saturated = {
            "engine": engine.ask(SATURATED, encode=False),
            "JSON": over_http(session, url, SATURATED),
        }
        users = USERS_A_SLOT * DEVICE.slots
        await _warm_up([*single.values(), *saturated.values()], users)
        found: dict[str, dict[str, list[Go]]] = {
            "single": {name: [] for name in single},
            "saturated": {name: [] for name in saturated},
        }
        for turn in range(plan.rounds):
            tell(f"round {turn + 1} of {plan.rounds}: the engine, and the service over it ...")
            for name, ask in _in_turn(single, turn):
                found["single"][name].append(await _go(ask, 1, range(plan.single)))
            for name, ask in _in_turn(saturated, turn):
                requests = range(plan.waves * DEVICE.slots)
                found["saturated"][name].append(await _go(ask, users, requests))
    engine.close()
    return found


async def _router_only(
    plan: Plan, urls: dict[str, str], tell: Callable[[str], None]
) -> dict[str, list[Go]]:
    async with _session() as session:
        await _until_ready(session, f"{urls['router']}/healthz")
        asks = {name: await _same_answer(session, url) for name, url in urls.items()}
        await _warm_up(list(asks.values()), ROUTER_USERS)
        found: dict[str, list[Go]] = {name: [] for name in asks}
        for turn in range(plan.rounds):
            tell(f"round {turn + 1} of {plan.rounds}: the router alone, FastAPI, LitServe ...")
            for name, ask in _in_turn(asks, turn):
                requests = for_seconds(plan.router_s)
                found[name].append(await _go(ask, ROUTER_USERS, requests))
    return found


async def _same_answer(session: aiohttp.ClientSession, url: str) -> Ask:
    """What asks a server, whose answer is held to what it must be.

    Raises:
        RuntimeError: it is another.
    """
    wanted = rivals.answer(GenerationRequest.model_validate(rivals.BODY), rivals.picture())
    answer = await contenders.post(session, url, rivals.BODY)
    if {**json.loads(answer), "created": 0} != wanted.model_dump(mode="json"):
        raise RuntimeError(f"{url}: another answer: {answer[:200]!r}")

    async def ask(_: int) -> None:
        if len(await contenders.post(session, url, rivals.BODY)) != len(answer):
            raise RuntimeError(f"{url}: an answer of another length")

    return ask


async def _go(ask: Ask, users: int, requests: Iterable[int]) -> Go:
    account = Account()
    loop = await closed_loop(ask, users, requests)
    usage = account.close()
    count = len(loop.latencies_s)
    return Go(
        p50_ms=1000 * statistics.median(loop.latencies_s),
        per_s=loop.per_s,
        cpu_ms={role: 1000 * spent_s / count for role, spent_s in usage.cpu_s.items()},
        others=usage.others,
        load=usage.load,
    )


def _in_turn(asks: dict[str, Ask], turn: int) -> list[tuple[str, Ask]]:
    """Who is first changes with every round."""
    shift = turn % len(asks)
    every = list(asks.items())
    return [*every[shift:], *every[:shift]]


async def _warm_up(asks: list[Ask], users: int) -> None:
    """Open every connection, and let code be loaded that the first request needs."""
    for ask in asks:
        await closed_loop(ask, users, range(2 * users))


async def _until_ready(session: aiohttp.ClientSession, url: str) -> None:
    """HAProxy learns of its replicas a moment after they run.

    Raises:
        TimeoutError: nobody answers there.
    """
    async with asyncio.timeout(_READY_S):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
