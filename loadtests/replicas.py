"""`python -m loadtests.replicas`: what the second, third, ... replica of a variant brings.

Starts Ray and the application here, on loopback, with as many replicas as asked for, in turn and
repeated. By default the device is not there: logical GPUs, and a denoiser whose steps take a fixed
time (`fixed_step`), so that all else is what the service itself costs. With --real the pipelines
run, one GPU a replica. For each count of replicas:

- throughput of a closed loop with four users a replica, and the scaling efficiency: against as many
  times one replica's;
- p95 of an open loop at 70 % of that many times one replica's throughput;
- what HTTP, proxy and router add to one user's picture (the denoiser's own time is known), and the
  CPU time that proxy and router spend on a request.

A table goes to the terminal and to a report; the last line is the result as JSON.
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import psutil

from serve.errors import ServingError
from serve.variants import FamilyName, family

from . import arrivals, closedloop, openloop
from .client import Client, connected
from .local_serve import local_serve
from .machine import commit, cpu_name
from .markdown import table
from .samples import Sample, summarize
from .workload import Workload

# Enough users to keep every replica busy while a picture is on its way.
_USERS_A_REPLICA = 4
_REQUESTS_A_USER = 5
_LOAD = 0.7
# Of each count, over all rounds: a p95 from fewer is not decided.
_OPEN_REQUESTS = 100
_SINGLE_REQUESTS = 10


@dataclass(frozen=True)
class Round:
    """One count of replicas, measured once."""

    replicas: int
    images_per_s: float
    samples: tuple[Sample, ...]
    single_s: float
    front_cpu_ms: float


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.replicas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--counts", default="1,2,4", help="replicas, the smallest first")
    add("--rounds", type=int, default=3, help="repeats, counts in turn")
    add("--variant", default="distilled")
    add("--steps", type=int, default=25)
    add("--step-ms", type=float, default=16.0, help="of the denoiser that isn't there")
    add("--real", action="store_true", help="the real pipelines, with --num-gpus a replica")
    add("--num-gpus", type=float, default=1.0, help="that a real replica reserves; 0: on CPUs")
    add("--family", choices=get_args(FamilyName), default="miniature")
    add("--weights-dir", type=Path, help="its folder, unless it is the miniature")
    add("--out", type=Path, default=Path(__file__).parent / "reports")
    return parser


def main() -> int:
    """Measure, print, write; 1 where a request failed, 2 where the arguments are wrong."""
    args = _parser().parse_args()
    try:
        counts = _counts(args)
        with _ray_serve(max(counts), args) as address:
            rounds = asyncio.run(_measure(args, counts, address))
    except ServingError as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 2
    result = conclude(args, rounds)
    text = render(result)
    kind = "real" if args.real else "fixed-step"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"replicas-{kind}.md").write_text(text)
    (args.out / f"replicas-{kind}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"\n{text}\nWritten to {args.out / f'replicas-{kind}'}.md and .json")
    print(json.dumps(result))
    return 0


def _counts(args: argparse.Namespace) -> list[int]:
    if not all(one.isdecimal() and 1 <= int(one) <= 64 for one in args.counts.split(",")):
        raise ServingError(f"counts: {args.counts!r} was given; allowed: numbers from 1 to 64")
    if args.rounds < 1 or args.steps < 1 or not args.step_ms > 0:
        raise ServingError("rounds, steps, step-ms: must be at least 1, 1, and over 0")
    known = family(args.family).variants
    if args.variant not in known:
        raise ServingError(f"variant: {args.variant!r} was given; allowed: {', '.join(known)}")
    return sorted({1, *map(int, args.counts.split(","))})


@contextlib.contextmanager
def _ray_serve(most: int, args: argparse.Namespace) -> Iterator[str]:
    """With logical GPUs, unless the real ones are wanted."""
    with local_serve(num_gpus=None if args.real else most) as address:
        import ray

        if args.real and most * args.num_gpus > ray.cluster_resources().get("GPU", 0):
            raise ServingError(f"counts: {most} replicas need {most * args.num_gpus:g} GPUs")
        yield address


def _deploy(args: argparse.Namespace, replicas: int) -> None:
    """Start the application, or change the number of its replicas; returns when they are warm."""
    from ray import serve

    from serve.app import build_app
    from serve.config import AppArgs

    from .fixed_step import build_fixed_step_app

    app_args = AppArgs(
        family=args.family,
        weights_dir=args.weights_dir,
        variants=(args.variant,),
        num_replicas=replicas,
        num_gpus=args.num_gpus if args.real else 1,
        num_cpus=0,
        # A fixed step takes as long for many images as for one: with slots it would have no limit.
        slots=None if args.real else 1,
        max_queued_requests=256,
    )
    app = build_app(app_args) if args.real else build_fixed_step_app(
        app_args, args.step_ms / 1000
    )  # fmt: skip
    serve.run(app, name="replicas")


async def _measure(args: argparse.Namespace, counts: list[int], url: str) -> list[Round]:
    workload = Workload.shipped(args.family, num_inference_steps=(args.steps,))
    rounds: list[Round] = []
    for turn in range(args.rounds):
        for count in counts:
            await asyncio.to_thread(_deploy, args, count)
            print(f"round {turn + 1} of {args.rounds}: {count} replica(s) ...", flush=True)
            async with connected(url) as client:
                alone = next((one.images_per_s for one in rounds if one.replicas == 1), None)
                rounds.append(await _round(client, args, workload, count, turn, alone))
    return rounds


async def _round(
    client: Client,
    args: argparse.Namespace,
    workload: Workload,
    count: int,
    turn: int,
    alone_per_s: float | None,
) -> Round:
    async def closed(users: int, requests: int) -> list[Sample]:
        samples = await closedloop.run(client, users, requests, workload, args.variant)
        _refuse_failures(samples)
        return samples

    await closed(2 * count, 4 * count)  # Every replica and connection has been used once.
    single = await closed(1, _SINGLE_REQUESTS)
    users = _USERS_A_REPLICA * count
    cpu_s, requests = _front_cpu_s(), users * _REQUESTS_A_USER
    busy = await closed(users, requests)
    cpu_s = _front_cpu_s() - cpu_s
    images_per_s = requests / max(sample.done_s for sample in busy)
    rate = _LOAD * count * (alone_per_s or images_per_s)  # One replica comes first.
    wanted = -(-_OPEN_REQUESTS * count // args.rounds)
    schedule_s = arrivals.poisson_of(wanted, rate, seed=turn)
    samples = await openloop.run(client, schedule_s, workload, args.variant)
    _refuse_failures(samples)
    return Round(
        replicas=count,
        images_per_s=images_per_s,
        samples=tuple(samples),
        single_s=statistics.median(sample.latency_s for sample in single),
        front_cpu_ms=1000 * cpu_s / requests,
    )


def _refuse_failures(samples: Sequence[Sample]) -> None:
    """A figure over requests that went wrong would be none."""
    for sample in samples:
        if sample.outcome != "ok":
            raise ServingError(f"a request was {sample.outcome}: {sample.reason}")


def _front_cpu_s() -> float:
    """CPU seconds that Serve's proxy and the router have spent, of this driver's own cluster."""
    spent = 0.0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            name = " ".join(process.cmdline())
            if "ProxyActor" in name or ":router" in name:
                times = process.cpu_times()
                spent += times.user + times.system
    return spent


def conclude(args: argparse.Namespace, rounds: list[Round]) -> dict[str, Any]:
    """Medians over the rounds; efficiency within each."""
    denoise_s = None if args.real else args.steps * args.step_ms / 1000
    rows = []
    for count in sorted({one.replicas for one in rounds}):
        mine = [one for one in rounds if one.replicas == count]
        single = [one for one in rounds if one.replicas == 1]
        efficiency = [
            one.images_per_s / (count * alone.images_per_s)
            for one, alone in zip(mine, single, strict=True)
        ]
        samples = [sample for one in mine for sample in one.samples]
        pooled = summarize(samples, 1.0, None)  # Its rates are not used.
        single_s = statistics.median(one.single_s for one in mine)
        rows.append(
            {
                "replicas": count,
                "images_per_s": _three(one.images_per_s for one in mine),
                "efficiency": _three(efficiency),
                "p95_s": pooled.p95_s if pooled.ok >= 100 and not pooled.void else None,
                "open_loop_requests": pooled.ok,
                "single_s": single_s,
                "added_ms": None if denoise_s is None else 1000 * (single_s - denoise_s),
                "front_cpu_ms": _three(one.front_cpu_ms for one in mine),
                "void": pooled.void,
            }
        )
    return {
        "benchmark": "replicas",
        "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "commit": commit(),
        "machine": f"{cpu_name()}, {os.cpu_count()} cores",
        "real": args.real,
        "variant": args.variant,
        "steps": args.steps,
        "step_ms": None if args.real else args.step_ms,
        "rounds": args.rounds,
        "counts": rows,
    }


def _three(values: Any) -> dict[str, float]:
    every = list(values)
    return {"median": statistics.median(every), "low": min(every), "high": max(every)}


def render(result: dict[str, Any]) -> str:
    """The report in Markdown, ending in a line break."""
    device = (
        "the real pipelines"
        if result["real"]
        else f"logical GPUs; a step takes {result['step_ms']:g} ms and nothing else"
    )
    lines = [
        f"# Replicas of `{result['variant']}` on {result['machine']}",
        "",
        f"- Commit {result['commit']}, {result['made']}; {device}; {result['steps']} steps a "
        f"picture, {result['rounds']} rounds, counts in turn; median (lowest to highest).",
        f"- Throughput: closed loop, {_USERS_A_REPLICA} users a replica; efficiency against as "
        "many times one replica, within each round.",
        f"- p95: open loop, Poisson, at {_LOAD:.0%} of as many times one replica's throughput; "
        "from fewer than 100 pictures not decided.",
        "- Added: one user's picture less the denoiser's own time: HTTP, proxy, router, PNG.",
    ]
    rows = [
        [str(one["replicas"]), _words(one["images_per_s"]), _words(one["efficiency"]),
         "not decided" if one["p95_s"] is None else f"{one['p95_s']:.3f}",
         f"{1000 * one['single_s']:.0f}",
         "-" if one["added_ms"] is None else f"{one['added_ms']:.1f}",
         _words(one["front_cpu_ms"])]
        for one in result["counts"]
    ]  # fmt: skip
    head = ["replicas", "images/s", "efficiency", "p95 s", "one user, ms", "added ms",
            "proxy and router, CPU ms a request"]  # fmt: skip
    void = [f"Void at {one['replicas']}: {one['void']}." for one in result["counts"] if one["void"]]
    return "\n".join(lines) + "\n\n" + table("", head, rows).lstrip() + "\n" + "".join(
        f"\n{one}\n" for one in void
    )  # fmt: skip


def _words(three: dict[str, float]) -> str:
    return f"{three['median']:.2f} ({three['low']:.2f} to {three['high']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
