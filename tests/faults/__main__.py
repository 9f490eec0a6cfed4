"""`python -m tests.faults`, or `make faults`: play scenarios, print the table, record outcomes."""

import argparse
import asyncio
import logging
import math
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from loadtests import closedloop, haproxy, namespaces
from loadtests.machine import commit
from serve.replica_info import cpu_name
from tests.manifests.rendering import NAMES, OVERLAYS

from .load import Checked, Requests, checked, mixed
from .local import VARIANTS, LocalService
from .machine import BusyWatch
from .outcome import Check, Found, Outcome, Skipped, as_table, decide, record
from .overlay.manifests import OverlayError, render
from .overlay.service import OverlayService, keep_logs
from .scenarios import SCENARIOS
from .stage import Service, Stage

# A small disk in memory, for Ray's logs and copies of the miniature's weights.
_SCRATCH = Path("/run/faults")
_SCRATCH_SIZE = "512m"
_USERS = 12
# Far below what an overlay can draw; pictures of 0.4, 1 and 2 s.
_OVERLAY_RATE_PER_S = 2.0
_OVERLAY_KINDS = [{"num_inference_steps": steps} for steps in (10, 25, 50)]
# With less time left, no scenario is begun.
_ASIDE_S = 20.0
_RECOVERY_LIMIT_S = 300.0
# What test runners take for "skipped", and shells for Ctrl-C.
_SKIPPED, _INTERRUPTED = 77, 130


def main() -> int:
    """0: nothing is broken; 1: something is; 2: a wrong argument; 77: skipped; 130: interrupted."""
    args = _arguments()
    # An overlay that is named is what the command line is about.
    names = args.only or [
        name
        for name, scenario in SCENARIOS.items()
        if scenario.quick >= args.quick and (scenario.service == "overlay" or not args.overlay)
    ]
    if not args.inside:
        reason = haproxy.missing() if args.haproxy else namespaces.missing(["nsenter"])
        if reason:
            print(f"Skipped: {reason}", file=sys.stderr)
            return _SKIPPED
    # Whatever happens in there ends with its first process.
    namespaces.enter("tests.faults", sys.argv[1:], haproxy.environment() if args.haproxy else {})
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _SCRATCH.mkdir()
    options = f"size={_SCRATCH_SIZE}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", _SCRATCH], check=True)
    run = _Run(args)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, run.interrupt)
    try:
        asyncio.run(run.play(names))
    except OverlayError as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 2
    finally:  # Whatever it was, the outcomes up to then are printed.
        run.print_table()
    return 1 if any(outcome.verdict == "broken" for outcome in run.outcomes) else 0


class _Run:
    """One command line: its services, one after the other, and what their scenarios found."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.outcomes: list[Outcome] = []
        self._args = args
        self._watch = BusyWatch()
        self._end_s = time.monotonic() + 60 * args.minutes
        arguments = shlex.join(word for word in sys.argv[1:] if word != "--inside")
        memory_gib = psutil.virtual_memory().total / 1024**3
        self._made = {
            "command": f"python -m tests.faults {arguments}".strip(),
            "commit": commit(),
            "date": time.strftime("%Y-%m-%d"),
            "machine": f"{os.cpu_count()} cores ({cpu_name()}), {memory_gib:.0f} GiB, "
            f"Python {platform.python_version()}",
        }

    def print_table(self) -> None:
        caption = "`{command}`: commit {commit}, {date}; {machine}.".format(**self._made)
        _say("\n" + as_table(caption, self.outcomes))

    def interrupt(self, *_: object) -> None:
        """End at once; the first process of namespaces takes all others along."""
        _say("Interrupted.")
        self.print_table()
        os._exit(_INTERRUPTED)

    async def play(self, names: Sequence[str]) -> None:
        self._watch.start()
        if local := [name for name in names if SCENARIOS[name].service == "local"]:
            await self._play_on(LocalService(_SCRATCH), mixed(VARIANTS), local)
        if pods := [name for name in names if SCENARIOS[name].service == "overlay"]:
            folder = self._args.overlay or OVERLAYS / "production"
            service = await asyncio.to_thread(lambda: OverlayService(render(folder), _say))
            requests = mixed(service.variants, _OVERLAY_KINDS)
            await self._play_on(service, requests, pods, folder.name)

    async def _play_on(
        self, service: Service, requests: Requests, names: Sequence[str], overlay: str = ""
    ) -> None:
        """Start a service, draw each request alone, and play scenarios for as long as it lives."""
        args, began_s = self._args, time.monotonic()
        _say(f"Starting {f'the pods of {overlay}' if overlay else 'the service'} ...")
        try:
            await asyncio.to_thread(service.start)
            _say(f"  warm after {time.monotonic() - began_s:.0f} s")
            # A gateway picks an endpoint for each request: without keep-alive each picks its own.
            client_of = checked(service.url, requests, service.key, keep_alive=not overlay)
            async with client_of as client:
                rate = _OVERLAY_RATE_PER_S if overlay else await self._capacity(client, requests)
                soak_s = 60 * args.soak_minutes
                stage = Stage(service, client, requests, rate, args.quick, soak_s)
                for name in names:
                    began_s = time.monotonic()
                    self._add(await self._play(stage, name), overlay)
        except (TimeoutError, RuntimeError) as fault:
            self._add(self._decide("start", "the start", _failed(fault), began_s), overlay)
        finally:
            if overlay and args.logs is not None:
                keep_logs(args.logs)
            await asyncio.to_thread(service.stop)

    async def _capacity(self, client: Checked, requests: Requests) -> float:
        wanted, began_s = 60 if self._args.quick else 150, time.monotonic()
        samples = await closedloop.run(client, _USERS, wanted, requests, "mixed")
        drawn_per_s = sum(one.outcome == "ok" for one in samples) / (time.monotonic() - began_s)
        _say(f"  capacity {drawn_per_s:.2f} requests/s")
        if failed := [sample.reason for sample in samples if sample.outcome == "failed"]:
            raise RuntimeError(f"measuring the capacity: {failed[0]}")
        return drawn_per_s

    async def _play(self, stage: Stage[Service], name: str) -> Outcome:
        """One scenario, within its limit, on a service that is whole."""
        scenario, service = SCENARIOS[name], stage.service
        if self._end_s - time.monotonic() < _ASIDE_S:
            return Outcome(name, scenario.title, "not decided", "no time was left")
        if not await stage.within(service.ready, _RECOVERY_LIMIT_S):
            _say("  the service did not come back; starting it anew ...")
            await asyncio.to_thread(service.stop)
            await asyncio.to_thread(service.start)
        _say(f"{name} ...")
        began_s = time.monotonic()
        limit_s = scenario.limit_s + (stage.soak_s if name == "soak" else 0)
        try:
            limit_s = min(limit_s, self._end_s - began_s)
            found = await asyncio.wait_for(scenario.play(stage), limit_s)
        except Skipped as skipped:
            return Outcome(name, scenario.title, "skipped", str(skipped))
        except Exception as fault:  # The others' outcomes must not be lost with this one's.
            if time.monotonic() >= self._end_s:
                return Outcome(name, scenario.title, "not decided", "no time was left for all")
            found = _failed(fault)
        return self._decide(name, scenario.title, found, began_s)

    def _decide(self, name: str, title: str, found: Found, began_s: float) -> Outcome:
        ended_s = time.monotonic()
        others_share = self._watch.others_share(began_s, ended_s)
        return decide(name, title, found, ended_s - began_s, others_share)

    def _add(self, outcome: Outcome, overlay: str) -> None:
        self.outcomes.append(outcome)
        _say(f"  {outcome.verdict} {outcome.reason}")
        if self._args.out is not None:
            record(self._args.out, {"overlay": overlay, **self._made}, [outcome])


def _failed(fault: Exception) -> Found:
    """A wait that was too long may be the machine's fault, nothing else is."""
    timed = isinstance(fault, TimeoutError)
    return Found([Check(f"{type(fault).__name__}: {fault}", "no error", False, timed)])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    add = parser.add_argument
    names = ", ".join(SCENARIOS)
    add("--only", nargs="+", choices=tuple(SCENARIOS), metavar="NAME", help=f"these: {names}")
    overlay = "only the scenarios of overlays, on this one: a name in deploy/overlays or a folder"
    add("--overlay", type=_overlay, help=f"{overlay}; default: all, those on production")
    add("--quick", action="store_true", help="a subset, within 10 minutes")
    add("--minutes", type=float, help="what would begin later isn't played")
    add("--soak-minutes", type=float, help="default: 10, half a minute with --quick")
    add("--haproxy", action="store_true", help="the local service behind HAProxy, as on clusters")
    add("--out", type=Path, help="record the outcomes in this JSON file")
    add("--logs", type=Path, help="keep the logs of an overlay's pods here")
    add("--inside", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.soak_minutes = args.soak_minutes or (0.5 if args.quick else 10.0)
    args.minutes = args.minutes or (10.0 if args.quick else math.inf)
    return args


def _overlay(text: str) -> Path:
    for folder in (OVERLAYS / text, Path(text)):
        if (folder / "kustomization.yaml").exists():
            return folder.resolve()
    raise argparse.ArgumentTypeError(f"{text!r}: neither a folder nor one of {', '.join(NAMES)}")


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    # Nobody waits for threads that still delete pods: the first process of its namespaces takes all
    # others along.
    os._exit(main())
