"""The result as tables for people. Pure."""

from collections.abc import Sequence
from typing import Any

from ..markdown import table
from .bars import MOST_OTHERS, Go, Spread, added_ms, throughput

_NAMES = {
    "engine": "the engine alone",
    "JSON": "the service, JSON",
    "bytes": "the service, the picture's bytes",
    "router": "our router, HAProxy, Ray Serve",
    "FastAPI": "FastAPI on uvicorn",
    "LitServe": "LitServe",
}


def render(result: dict[str, Any]) -> str:
    """The report in Markdown, ending in a line break."""
    plan, device = result["plan"], result["device"]
    parts = {
        part: {name: [Go(**go) for go in goes] for name, goes in result[part].items()}
        for part in ("single", "saturated", "router_only")
    }
    return "\n\n".join(
        [
            f"# What HTTP and Ray Serve cost, on {result['machine']}",
            f"- `{result['command']}`, commit {result['commit']}, {result['made']}, "
            f"{result['seconds']:.0f} s; load average before the start "
            f"{result['load_before']:.2f}.\n"
            f"- {plan['rounds']} rounds, contenders in turn in each; median (lowest to highest). "
            "Ratios and differences are taken within rounds.\n"
            f"- Steps sleep {1000 * device['step_s']:g} ms, however many of {device['slots']} "
            "slots are in use; pictures weigh what photos of 512x512 do.\n"
            "- *others*: cores used by what isn't the benchmark's. A round in which they used more "
            f"than {MOST_OTHERS:g} decides nothing. *load*: the load average of the last minute, "
            "the benchmark's own included.",
            _bars(result["bars"]),
            _single(parts["single"], plan["single"], result["work"]["single"]),
            _saturated(parts["saturated"], device["slots"], result),
            _router_only(parts["router_only"], result["users"]["router_only"]),
        ]
    ) + "\n"  # fmt: skip


def _bars(bars: list[dict[str, Any]]) -> str:
    rows = [
        [one["name"], one["wanted"], _words(Spread(**one["found"])),
         f"{one['quiet']} of {one['rounds']}",
         f"**{one['state']}**" if one["state"] == "missed" else one["state"]]
        for one in bars
    ]  # fmt: skip
    return table("## What must hold", ["bar", "wanted", "found", "quiet rounds", "state"], rows)


def _single(goes: dict[str, list[Go]], requests: int, work: dict[str, Any]) -> str:
    rows = []
    for name, mine in goes.items():
        added = "-" if name == "engine" else _words(Spread.of(added_ms(mine, goes["engine"])))
        rows.append(
            [_NAMES[name], _words(Spread.of([one.p50_ms for one in mine])), added, *_around(mine)]
        )
    caption = (
        f"## One user\n\n{requests} requests a round, {work['steps']} steps, "
        f"{work['output_format']}. The engine alone encodes its pictures, too, so that what is "
        "added is beyond that."
    )
    return (
        table(caption, ["", "p50 ms", "added ms", "others", "load"], rows)
        + "\n\n"
        + _cpu("CPU milliseconds a request", goes)
    )


def _saturated(goes: dict[str, list[Go]], slots: int, result: dict[str, Any]) -> str:
    work = result["work"]["saturated"]
    rows = []
    for name, mine in goes.items():
        share = "-" if name == "engine" else _words(Spread.of(throughput(mine, goes["engine"])))
        rows.append(
            [_NAMES[name], _words(Spread.of([one.per_s for one in mine])), share, *_around(mine)]
        )
    caption = (
        f"## Saturated\n\n{result['users']['saturated']} users for {slots} slots, "
        f"{work['steps']} steps, {work['output_format']}. The engine alone doesn't encode here."
    )
    return (
        table(caption, ["", "images/s", "in the engine's", "others", "load"], rows)
        + "\n\n"
        + _cpu("CPU milliseconds a request", goes)
    )


def _router_only(goes: dict[str, list[Go]], users: int) -> str:
    plain = goes["FastAPI"]
    rows = [
        [_NAMES[name], _words(Spread.of([one.per_s for one in mine])),
         _words(Spread.of(throughput(mine, plain))),
         _words(Spread.of([one.p50_ms for one in mine])), *_around(mine)]
        for name, mine in goes.items()
    ]  # fmt: skip
    caption = (
        f"## The router alone\n\n{users} users, replicas that answer at once, and the same "
        "answer to the same request from other servers: one process of FastAPI, and LitServe with "
        "one worker. Ours crosses HAProxy, the router and a replica."
    )
    return (
        table(caption, ["", "requests/s", "in FastAPI's", "p50 ms", "others", "load"], rows)
        + "\n\n"
        + _cpu("CPU milliseconds a request", goes)
    )


def _cpu(caption: str, goes: dict[str, list[Go]]) -> str:
    roles = sorted({role for mine in goes.values() for one in mine for role in one.cpu_ms})
    rows = []
    for name, mine in goes.items():
        cells = [
            f"{Spread.of([one.cpu_ms.get(role, 0.0) for one in mine]).median:.1f}" for role in roles
        ]
        rows.append([_NAMES[name], *cells])
    return table(caption, ["", *roles], rows)


def _around(goes: Sequence[Go]) -> list[str]:
    return [
        _words(Spread.of([one.others for one in goes])),
        _words(Spread.of([one.load for one in goes])),
    ]


def _words(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.low:.2f} to {spread.high:.2f})"
