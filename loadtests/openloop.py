"""`python -m loadtests.openloop`: an open loop against a running endpoint.

Arrivals are scheduled before the run and fired on time, whatever has come back; latency is
measured from the scheduled instant. A closed loop, whose users wait for their answers, asks less
just when the service is slow, and so hides it (coordinated omission). Raw samples are kept, one
JSON line each; percentiles are exact.
"""

import argparse
import asyncio
import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from . import arrivals
from .client import Client, answered, connected
from .keys import KEY_HELP, environments_key
from .samples import Sample, Summary, summarize
from .workload import Workload

# Beyond this many the operating system's limits would be measured.
_MOST_IN_FLIGHT = 900
# The arguments that the JSON line repeats.
_ASKED = ("host", "variant", "arrivals", "rate", "duration", "seed", "steps", "n", "slo")


async def run(
    client: Client,
    schedule_s: Sequence[float],
    workload: Workload,
    variant: str,
    *,
    first: int = 0,
    done: Callable[[Sample], object] = lambda sample: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Sample]:
    """Fire every request of a schedule on time and wait for all answers.

    Cancelling it (Ctrl-C under `asyncio.run`) ends it early: what has been measured is returned,
    with what was under way as `unfinished`.

    `schedule_s` are seconds from the start, ascending; its request i is the workload's request
    `first` + i. `done` is called with each sample as it ends, and `stop` before each firing: True
    leaves out the rest of the schedule.
    """
    loop = asyncio.get_running_loop()
    samples: list[Sample] = []
    under_way: dict[asyncio.Task[None], Sample] = {}

    def keep(sample: Sample) -> None:
        samples.append(sample)
        done(sample)

    async def fire(fired: Sample, asked: dict[str, Any]) -> None:
        answer = await client.draw(asked)
        keep(answered(fired, answer, answer.done_s - started))

    started = loop.time()
    try:
        for index, scheduled_s in enumerate(schedule_s, first):
            asked = workload.body(index, variant)
            # Also where it is late already: the others must get their turn.
            await asyncio.sleep(max(0, started + scheduled_s - loop.time()))
            if stop():
                break
            now_s = loop.time() - started
            steps, edit = asked.get("num_inference_steps"), "image" in asked
            fired = Sample(index, variant, steps, scheduled_s, now_s, now_s, edit=edit)
            if len(under_way) >= _MOST_IN_FLIGHT:
                keep(replace(fired, outcome="unsent"))
                continue
            task = asyncio.create_task(fire(fired, asked))
            under_way[task] = fired
            task.add_done_callback(under_way.pop)
        while under_way:
            await asyncio.wait(list(under_way))
    except asyncio.CancelledError:
        now_s = loop.time() - started
        for task, fired in list(under_way.items()):
            task.cancel()
            keep(replace(fired, done_s=now_s))
    return samples


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.openloop", description=__doc__)
    parser.add_argument("--host", required=True, help="http://127.0.0.1:8000")
    parser.add_argument("--variant", default="distilled")
    parser.add_argument("--rate", type=float, default=1, help="requests a second")
    parser.add_argument("--duration", type=float, default=60, help="seconds")
    parser.add_argument(
        "--arrivals", default="poisson", help="poisson, constant, or a CSV file with arrival_s"
    )
    parser.add_argument("--seed", type=int, default=0, help="of arrivals, prompts and seeds")
    parser.add_argument(
        "--steps",
        default="",
        help="a,b: each request takes one of them; the variant's own when empty",
    )
    parser.add_argument("--n", type=int, default=1, help="images a request")
    parser.add_argument("--size", help="WIDTHxHEIGHT; default: the variant's own")
    parser.add_argument("--guidance", type=float, help="default: the variant's own")
    parser.add_argument("--prompts", choices=("miniature", "sd-v1"), default="miniature")
    parser.add_argument("--slo", type=float, help="seconds within which a request should be drawn")
    parser.add_argument("--timeout", type=float, default=120, help="seconds")
    parser.add_argument("--key", default=environments_key(), help=KEY_HELP)
    parser.add_argument("--out", type=Path, help="write raw samples here, one JSON line each")
    return parser


def _schedule(args: argparse.Namespace) -> list[float]:
    """The arrivals that the command line asks for."""
    if args.arrivals not in ("poisson", "constant"):
        return arrivals.trace(Path(args.arrivals))
    for name in ("rate", "duration"):
        value = getattr(args, name)
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"--{name}: {value} was given; it must be a number over 0")
    if args.arrivals == "constant":
        return arrivals.constant(args.rate, args.duration)
    return arrivals.poisson(args.rate, args.duration, args.seed)


def _steps(text: str) -> tuple[int, ...]:
    if not text:
        return ()
    if not all(count.isdecimal() for count in text.split(",")):
        raise ValueError(f"--steps: {text!r} was given; it must be one or more numbers: 10,25,50")
    return tuple(int(count) for count in text.split(","))


def main() -> int:
    """Run it, print a summary for people and one JSON line; 1 where something failed."""
    args = _parser().parse_args()
    try:
        schedule_s = _schedule(args)
        steps = _steps(args.steps)
    except (ValueError, OSError) as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 2
    workload = Workload.shipped(
        args.prompts,
        seed=args.seed,
        num_inference_steps=steps,
        n=args.n,
        size=args.size,
        guidance_scale=args.guidance,
    )
    duration_s = schedule_s[-1] if Path(args.arrivals).is_file() else args.duration
    with contextlib.ExitStack() as stack:
        lines = stack.enter_context(args.out.open("w")) if args.out else None

        def keep(sample: Sample) -> None:
            if lines is not None:
                lines.write(json.dumps(asdict(sample)) + "\n")

        began = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        samples = asyncio.run(_run(args, schedule_s, workload, keep))
    summary = summarize(samples, max(duration_s, 1e-9), args.slo)
    interrupted = len(samples) < len(schedule_s) or summary.unfinished > 0
    print(_words(summary, args, interrupted))
    asked = {name: value for name, value in vars(args).items() if name in _ASKED}
    print(json.dumps({"began": began, "interrupted": interrupted, **asked, **asdict(summary)}))
    return 1 if summary.failed or summary.void or interrupted else 0


async def _run(
    args: argparse.Namespace,
    schedule_s: Sequence[float],
    workload: Workload,
    keep: Callable[[Sample], object],
) -> list[Sample]:
    async with connected(args.host, args.timeout, args.key) as client:
        return await run(client, schedule_s, workload, args.variant, done=keep)


def _words(summary: Summary, args: argparse.Namespace, interrupted: bool) -> str:
    def ms(value_s: float | None) -> str:
        return "-" if value_s is None else f"{1000 * value_s:.0f} ms"

    lines = [
        f"{args.variant} at {args.host}, open loop, {args.arrivals} arrivals",
        f"  offered {summary.offered_per_s:.2f}/s, drawn {summary.achieved_per_s:.2f}/s",
        f"  {summary.requests} requests: {summary.ok} drawn, {summary.rejected} rejected (429), "
        f"{summary.failed} failed; {summary.late} fired late",
        f"  latency p50 {ms(summary.p50_s)}, p95 {ms(summary.p95_s)}, p99 {ms(summary.p99_s)}, "
        f"worst {ms(summary.worst_s)}",
    ]
    if 0 < summary.ok < 100:
        lines.append(f"  a p95 from {summary.ok} samples is not decided")
    if summary.within_slo is not None:
        lines.append(f"  within {args.slo:g} s: {summary.within_slo:.1%} of all requests")
    if interrupted:
        lines.append(f"  INTERRUPTED: {summary.unfinished} were under way")
    if summary.void:
        lines.append(f"  VOID: {summary.void}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
