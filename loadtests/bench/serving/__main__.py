"""`make overhead`: what HTTP and Ray Serve cost, and what another replica brings.

Ray, Serve and HAProxy start here as the cluster configures them, in namespaces of their own, over a
denoiser whose steps sleep. Within each round, in turn: the engine called directly and the service
over it, for one user and saturated; the router over replicas that answer at once, against the same
answer from FastAPI on uvicorn; edits against generations; one replica and several, on logical GPUs.

Tables go to the terminal and to a report; the last line is the result as JSON. The exit status is 1
where a bar is missed, and 77 where this machine can't make the namespaces or has no HAProxy.
"""

import argparse
import shlex
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from ... import haproxy, namespaces
from ..output import REPORTS, publish

# What test runners take for "skipped".
_CANNOT = 77


def main() -> int:
    """Measure, print, write."""
    args = _parser().parse_args()
    if reason := "" if args.inside else haproxy.missing():
        print(f"Not measured: {reason}", file=sys.stderr)
        return _CANNOT
    namespaces.enter(str(__package__), sys.argv[1:], haproxy.environment())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        return _run(args)
    except (RuntimeError, ExceptionGroup) as fault:
        print(f"distilled-sd-serve: {_first(fault)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted.", flush=True)
        return 130


def _run(args: argparse.Namespace) -> int:
    # Serve reads its environment when it is imported, which `namespaces.enter` has set.
    from .report import render
    from .run import ServingRun, measure

    started_at = time.perf_counter()
    run = ServingRun(replicas=args.replicas)
    if args.quick:
        run = replace(run, rounds=1, single=5, waves=3, router=300, replicas=args.replicas[:2])
    result = measure(run, partial(print, flush=True))
    given = shlex.join(argument for argument in sys.argv[1:] if argument != "--inside")
    result["command"] = "make overhead" + (f" ARGS={shlex.quote(given)}" if given else "")
    result["seconds"] = time.perf_counter() - started_at
    return publish(result, render(result), args.out, "serving-fixed-step")


def _first(fault: Exception) -> Exception:
    """The first of several that users met at the same time."""
    while isinstance(fault, ExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _counts(text: str) -> tuple[int, ...]:
    counts = text.split(",")
    if not all(count.isdecimal() and 1 <= int(count) <= 64 for count in counts):
        raise argparse.ArgumentTypeError(f"{text!r} was given; allowed: numbers from 1 to 64")
    return tuple(sorted({1, *map(int, counts)}))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="one short round; decides nothing")
    add("--replicas", type=_counts, default="1,2,4", help="counts that are compared")
    add("--out", type=Path, default=REPORTS, help="where reports go")
    add("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
