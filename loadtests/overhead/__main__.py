"""`make overhead`: what HTTP and Ray Serve cost beside the engine, and beside other servers.

Ray, Serve and HAProxy start here as the cluster configures them, in namespaces of their own, over a
denoiser whose steps sleep. Within each round, in turn: the engine called directly and the service
over it, for one user and saturated; then the router over replicas that answer at once, against the
same answer from FastAPI on uvicorn and from LitServe.

Tables go to the terminal and to a report; the last line is the result as JSON. The exit status is 1
where a bar is missed, and 77 where this machine can't make the namespaces or has no HAProxy.
"""

import argparse
import json
import shlex
import signal
import sys
import time
from pathlib import Path

from .. import haproxy, namespaces
from .report import render
from .run import FULL, QUICK, measure

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
        _tell("Interrupted.")
        return 130


def _run(args: argparse.Namespace) -> int:
    started_at = time.perf_counter()
    result = measure(QUICK if args.quick else FULL, _tell)
    result["command"] = "make overhead" + (f" ARGS={_asked()}" if _asked() else "")
    result["seconds"] = time.perf_counter() - started_at
    text = render(result)
    args.out.mkdir(parents=True, exist_ok=True)
    name = args.out / "overhead-fixed-step"
    name.with_suffix(".md").write_text(text)
    name.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    _tell(f"\n{text}\nWritten to {name}.md and .json")
    print(json.dumps(result))
    return 1 if any(bar["state"] == "missed" for bar in result["bars"]) else 0


def _first(fault: Exception) -> Exception:
    """The first of several that users met at once."""
    while isinstance(fault, ExceptionGroup):
        fault = fault.exceptions[0]
    return fault


def _asked() -> str:
    asked = shlex.join(one for one in sys.argv[1:] if one != "--inside")
    return shlex.quote(asked) if asked else ""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.overhead",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one short round; decides nothing")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "reports", help="where reports go"
    )
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
