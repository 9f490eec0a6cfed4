"""`python -m tests.chaos`, or `make chaos`: play the scenarios, print and write the table."""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from loadtests import closedloop, haproxy, namespaces
from loadtests.machine import commit, cpu_name

from . import load
from .machine import BusyWatch
from .outcome import MOST_OTHERS, Found, NotMet, Outcome, Undecided, Word, as_table, decide
from .scenarios import SCENARIOS, Scenario
from .service import SLO_S, VARIANTS, Service
from .stage import Stage

_SCRATCH = Path("/run/chaos")
# Of the scratch folder in memory: Ray's logs, and copies of the miniature's weights.
_SCRATCH_SIZE = "512m"
_USERS = 12
# With less time left, no scenario is begun.
_ASIDE_S = 20.0
_SOAK_MINUTES = 10.0
# What test runners take for "skipped".
_CANNOT = 77


def main() -> int:
    """0: nothing is broken; 1: something is, or the service doesn't start; 77: not played."""
    args = _parser().parse_args()
    if args.soak_minutes is None:
        args.soak_minutes = 0.5 if args.quick else _SOAK_MINUTES
    if args.minutes is None:
        args.minutes = 4.5 if args.quick else 30 + max(0.0, args.soak_minutes - _SOAK_MINUTES)
    if args.haproxy and not args.inside and (reason := haproxy.missing()):
        print(f"Not played: {reason}", file=sys.stderr)
        return _CANNOT
    if not args.inside and not namespaces.missing():
        # Whatever happens in there ends with its first process.
        command = [sys.executable, "-m", "tests.chaos", *sys.argv[1:], "--inside"]
        return namespaces.run(command, haproxy.environment() if args.haproxy else {})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    outcomes: list[Outcome] = []
    try:
        with _scratch(args.inside) as scratch:
            asyncio.run(_run(args, scratch, outcomes))
    except KeyboardInterrupt:
        _tell("Interrupted.")
    except (NotMet, RuntimeError) as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        outcomes.append(Outcome("start", "started the service", "broken", str(fault)))
    finally:  # Whatever it was, the results up to then are told.
        print(f"\n{_written(args, outcomes)}", flush=True)
    return 1 if any(one.verdict == "broken" for one in outcomes) else 0


@contextlib.contextmanager
def _scratch(isolated: bool) -> Iterator[Path]:
    """Where Ray and the scenarios write; in namespaces of our own a small disk in memory."""
    if not isolated:
        with tempfile.TemporaryDirectory(prefix="chaos", ignore_cleanup_errors=True) as folder:
            yield Path(folder)
        return
    namespaces.prepare()
    _SCRATCH.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SCRATCH_SIZE}", "tmpfs", str(_SCRATCH)]
    subprocess.run(mount, check=True)
    yield _SCRATCH


async def _run(args: argparse.Namespace, scratch: Path, outcomes: list[Outcome]) -> None:
    watch = BusyWatch()
    watch.start()
    service = Service(scratch)
    names = [name for name, one in SCENARIOS.items() if not args.quick or one.quick]
    chosen = args.only or names
    began_s = time.monotonic()
    try:
        _tell("Starting the service ...")
        await asyncio.to_thread(service.start)
        _tell(f"  warm after {time.monotonic() - began_s:.0f} s")
        async with (
            load.checked(service.url) as client,
            load.checked(f"{service.url}/steps") as steps,
        ):
            stage = await _set_up(args, scratch, service, client, steps, watch)
            for name in chosen:
                if _left_s(args, began_s) > _ASIDE_S:
                    await _mend(stage)
                left_s = _left_s(args, began_s)
                outcomes.append(await _play(stage, name, SCENARIOS[name], left_s))
                _tell(f"  {outcomes[-1].verdict} {outcomes[-1].reason}")
                _written(args, outcomes)
    finally:
        watch.stop()
        if not args.inside:  # Namespaces take all of it along.
            await asyncio.to_thread(service.stop)


def _left_s(args: argparse.Namespace, began_s: float) -> float:
    return float(args.minutes * 60 - (time.monotonic() - began_s))


async def _set_up(
    args: argparse.Namespace,
    scratch: Path,
    service: Service,
    client: load.Checked,
    steps_client: load.Checked,
    watch: BusyWatch,
) -> Stage:
    """Draw each picture alone, and measure the capacity."""
    requests = load.mixed(VARIANTS)
    steps_requests = load.mixed(("distilled",))
    await client.draw_alone(requests.bodies)
    await steps_client.draw_alone(steps_requests.bodies)
    wanted = 60 if args.quick else 150
    began_s = time.monotonic()
    samples = await closedloop.run(client, _USERS, wanted, requests, "mixed")  # type: ignore[arg-type]
    capacity_per_s = sum(one.outcome == "ok" for one in samples) / (time.monotonic() - began_s)
    _tell(f"  capacity {capacity_per_s:.2f} requests/s")
    if failed := [one.reason for one in samples if one.outcome == "failed"]:
        raise NotMet(f"measuring the capacity: {failed[0]}")
    return Stage(
        service=service,
        client=client,
        steps_client=steps_client,
        requests=requests,
        steps_requests=steps_requests,
        capacity_per_s=capacity_per_s,
        watch=watch,
        scratch=scratch,
        quick=args.quick,
        soak_s=60 * args.soak_minutes,
        isolated=args.inside,
        tell=_tell,
    )


async def _play(stage: Stage, name: str, scenario: Scenario, left_s: float) -> Outcome:
    """One scenario, within its limit; whatever happens in it, there is an outcome."""
    if left_s < _ASIDE_S:
        return Outcome(name, "not played", "not decided", "no time was left")
    _tell(f"{name} ...")
    began_s = time.monotonic()
    full_s = scenario.limit_s + (stage.soak_s if name == "soak" else 0)
    limit_s = min(full_s, left_s)
    found: Found | None = None
    verdict: Word = "broken"
    reason, timed = "", False
    try:
        found = await asyncio.wait_for(scenario.play(stage), limit_s)
    except Undecided as fault:
        verdict, reason = "not decided", str(fault)
    except (TimeoutError, NotMet) as fault:
        reason, timed = str(fault) or f"not through after {limit_s:.0f} s", True
        if limit_s < full_s and isinstance(fault, TimeoutError):
            verdict, reason = "not decided", "no time was left for all of it"
    except Exception as fault:  # The others' results must not be lost with this one's.
        reason = f"the scenario itself failed: {type(fault).__name__}: {fault}"
    ended_s = time.monotonic()
    others = stage.watch.others_share(began_s, ended_s)
    if found is not None:
        return decide(name, found, ended_s - began_s, others)
    if timed and others > MOST_OTHERS:
        verdict, reason = "not decided", f"{reason}, while others took {others:.0%} of the cores"
    what = (scenario.play.__doc__ or "").strip()
    return Outcome(name, what, verdict, reason, took_s=ended_s - began_s, others=others)


async def _mend(stage: Stage) -> None:
    """A scenario needs a service that is whole: start anew where it isn't."""
    try:
        await stage.recover()
    except NotMet:
        _tell("  the service did not come back; starting it anew ...")
        await asyncio.to_thread(stage.service.restart)


def _written(args: argparse.Namespace, outcomes: list[Outcome]) -> str:
    """The table; also written, with JSON beside it, where that is asked for."""
    made = f"commit {commit()}, {time.strftime('%Y-%m-%d')}"
    machine = (
        f"{os.cpu_count()} cores ({cpu_name()}), "
        f"{psutil.virtual_memory().total / 1024**3:.0f} GiB, Python {platform.python_version()}"
    )
    caption = f"`{_command()}`: the miniature; SLO {SLO_S:g} s. {machine}, {made}."
    text = as_table(caption, outcomes)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text)
        rows = [one.as_json() for one in outcomes]
        result = {"machine": machine, "made": made, "slo_s": SLO_S, "outcomes": rows}
        args.out.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    return text


def _command() -> str:
    """The command line to repeat it with, without where it was written to."""
    asked = [one for one in sys.argv[1:] if one != "--inside"]
    if "--out" in asked:
        at = asked.index("--out")
        del asked[at : at + 2]
    return f"make chaos ARGS={shlex.quote(shlex.join(asked))}" if asked else "make chaos"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help="a subset, within 5 minutes")
    add(
        "--only",
        nargs="+",
        choices=tuple(SCENARIOS),
        metavar="NAME",
        help=f"these: {', '.join(SCENARIOS)}",
    )
    add("--haproxy", action="store_true", help="behind HAProxy, as clusters are")
    add("--soak-minutes", type=float, help="default: 10, half a minute with --quick")
    add(
        "--minutes", type=float, help="what comes later isn't played; default: 30 and what a soak "
        "takes over 10, 4.5 with --quick",
    )  # fmt: skip
    add("--out", type=Path, help="write the table here, and JSON beside it")
    add("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
