"""The result as tables for people."""

from typing import Any

from ...markdown import table
from ...rounds import Spread
from ..output import bars_table
from .run import (
    EDITED_PX,
    MOST_OTHERS,
    ROUTER_USERS,
    SATURATED,
    SINGLE,
    SLOTS,
    STEP_S,
    USERS_A_REPLICA,
    USERS_A_SLOT,
    Measurement,
    Rounds,
    added_ms,
    throughput,
)

_NAMES = {
    "engine": "the engine alone",
    "JSON": "the service, JSON",
    "bytes": "the service, the picture's bytes",
    "router": "our router, HAProxy, Ray Serve",
    "FastAPI": "FastAPI on uvicorn",
}
# What each part is compared with, in which column, and how it was measured.
_PARTS = {
    "single": (
        "engine",
        "added ms",
        f"## One user\n\n{SINGLE.steps} steps, {SINGLE.output_format}. The engine alone encodes, "
        "too, so that what is added is beyond that.",
    ),
    "saturated": (
        "engine",
        "in the engine's",
        f"## Saturated\n\n{USERS_A_SLOT * SLOTS} users for {SLOTS} slots, {SATURATED.steps} steps, "
        f"{SATURATED.output_format}. The engine alone doesn't encode here.",
    ),
    "router": (
        "FastAPI",
        "in FastAPI's",
        f"## The router alone\n\n{ROUTER_USERS} users, replicas that answer at once, and the same "
        "answer to the same request from one process of FastAPI. Ours crosses HAProxy, the router "
        "and a replica.",
    ),
    "edits": (
        "generation",
        "added ms",
        f"## Edits\n\nOne user, replicas that answer at once: an edit of a PNG of {EDITED_PX}x"
        f"{EDITED_PX} against a generation. What is added is the form, decoding the picture, "
        "scaling it to the miniature's largest size, and handing it over.",
    ),
    "replicas": (
        "1",
        "efficiency",
        f"## Replicas\n\n{USERS_A_REPLICA} users a replica, {SATURATED.steps} steps; efficiency is "
        "against as many times one replica.",
    ),
}


def render(result: dict[str, Any]) -> str:
    """The report in Markdown, ending in a line break."""
    run = result["run"]
    parts = [
        f"""# What HTTP and Ray Serve cost, on {result["machine"]}

- `{result["command"]}`, commit {result["commit"]}, {result["made"]}, {result["seconds"]:.0f} s; \
load average before the start {result["load_before"]:.2f}.
- Closed loops; {run["rounds"]} rounds, contenders in turn in each; median (lowest to highest). \
Ratios and differences are taken within rounds.
- Steps sleep {1000 * STEP_S:g} ms, however many of {SLOTS} slots are in use (of one, where \
replicas are compared); pictures weigh what photos of 512x512 do.
- *Others*: cores used by what isn't the benchmark's. A round in which they used more than \
{MOST_OTHERS:g} decides nothing. The columns after it: CPU milliseconds a request.""",
        bars_table(result["bars"]),
    ]
    for part, contenders in result["parts"].items():
        rounds = {name: [Measurement(**each) for each in all_] for name, all_ in contenders.items()}
        parts.append(_part(part, rounds))
    return "\n\n".join(parts) + "\n"


def _part(part: str, contenders: Rounds) -> str:
    against, comparison, caption = _PARTS[part]
    roles = sorted(
        {role for rounds in contenders.values() for each in rounds for role in each.cpu_ms}
    )
    rows = []
    for name, measured in contenders.items():
        cpu = [Spread.of(each.cpu_ms.get(role, 0.0) for each in measured) for role in roles]
        if name == against:
            compared = "-"
        elif comparison == "added ms":
            compared = Spread.of(added_ms(measured, contenders[against])).text()
        else:
            times = int(name) if part == "replicas" else 1
            compared = Spread.of(throughput(measured, contenders[against], times)).text()
        rows.append(
            [_NAMES.get(name, name), Spread.of(each.p50_ms for each in measured).text(),
             Spread.of(each.per_s for each in measured).text(), compared,
             Spread.of(each.others for each in measured).text(),
             *(f"{spent_ms.median:.1f}" for spent_ms in cpu)]
        )  # fmt: skip
    return table(caption, ["", "p50 ms", "a second", comparison, "others", *roles], rows)
