"""`python -m deploy.rehearsal`, or `make rehearse`: rehearse an overlay, print the table."""

import argparse
import logging
import os
import platform
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from loadtests import namespaces
from loadtests.machine import commit, cpu_name

from . import redis, serve_config
from .clusters import Names
from .controller import Controller
from .keys import with_key
from .load import Load
from .network import Network
from .outcome import Outcome, as_table, report
from .overlay import Overlay, OverlayError, render, with_pods
from .pods import ROOT
from .scenarios import FULL, QUICK, Scenario, Skipped
from .service import Service
from .stage import NotMet, Stage
from .translation import groups

REPORT = ROOT / "deploy" / "REHEARSAL.md"
# What test runners take for "skipped".
_CANNOT = 77
_STEP_S = 0.04
# Pictures of 0.4, 1 and 2 seconds where a step takes 0.04 s.
_STEPS = (10, 25, 50)


def main() -> int:
    """0 where all that was rehearsed holds, 1 where not, 77 where this machine can't hold it."""
    args = _parser().parse_args()
    if reason := "" if args.inside else namespaces.missing(["nsenter"]):
        print(f"Rehearsal skipped: {reason}", file=sys.stderr)
        return _CANNOT
    namespaces.enter(str(__package__), sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        return _rehearse(args)
    except OverlayError as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        _tell("Interrupted.")
        return 130


def _rehearse(args: argparse.Namespace) -> int:
    overlay = with_pods(Overlay(args.overlay.name, render(args.overlay)), args.pods)
    names, network = Names(), Network()
    no_redis = redis.start(overlay, network, names)
    if no_redis:
        overlay = redis.without_fault_tolerance(overlay)
    config = serve_config.with_replicas(serve_config.read(overlay.ray_service), args.pods)
    fixed_steps = args.denoiser == "fixed-step" or serve_config.served_family(config) != "miniature"
    if fixed_steps:
        config = serve_config.with_fixed_steps(config, _STEP_S)
    overlay, config, key = with_key(overlay, config)
    controller = Controller(overlay, config, network, names)
    service = Service(controller.endpoints)
    service.start()
    load = Load(service.url, serve_config.variants(config), args.rate, _STEPS, key)
    stage = Stage(overlay, controller, service, load, 0.0, no_redis, _tell)
    pods = sum(group.pods for group in groups(overlay.ray_service))
    _tell(f"Starting {pods} pods of {args.overlay} ...")
    chosen = args.only or (QUICK if args.quick else tuple(FULL))
    try:
        controller.start()
        outcomes = _play(stage, chosen)
    finally:
        load.stop()
        if args.logs is not None:
            _keep_logs(args.logs)
    denoiser = f"steps of {_STEP_S:g} s instead of a model" if fixed_steps else "the miniature"
    caption = (
        f"`{_command()}`: overlay `{args.overlay.name}`, {pods} pods, {denoiser}; an open loop "
        f"of {args.rate:g} requests a second. {os.cpu_count()} cores ({cpu_name()}), "
        f"{psutil.virtual_memory().total / 1024**3:.0f} GiB, Python {platform.python_version()}, "
        f"commit {commit()}, {time.strftime('%Y-%m-%d')}."
    )
    text = as_table(caption, outcomes)
    print(text, flush=True)
    if not (args.quick or args.only):
        before = args.report.read_text() if args.report.exists() else ""
        args.report.write_text(report(text, before))
    return 1 if any(one.verdict == "FAILS" for one in outcomes) else 0


def _play(stage: Stage, chosen: Sequence[str]) -> list[Outcome]:
    """Start, and play one scenario after the other, for as long as the service recovers."""
    outcomes: list[Outcome] = []
    try:
        stage.started_s = stage.recover()
        stage.load.start()
        for name in chosen:
            outcomes.append(_outcome(stage, name, FULL[name]))
            _tell(f"  {outcomes[-1]}")
            stage.recover()  # After a failure: the next one needs a service to disturb.
    except TimeoutError as late:
        for one in stage.cluster.kubelets:
            _tell(f"--- {one.pod.name}, {'' if one.ready else 'not '}ready\n{one.pod.tail()}")
        after = outcomes[-1].scenario if outcomes else "the start"
        outcomes.append(Outcome(f"after {after}", "waited for recovery", "FAILS", str(late)))
    return outcomes


def _outcome(stage: Stage, name: str, scenario: Scenario) -> Outcome:
    _tell(f"{name} ...")
    what = (scenario.__doc__ or "").partition(":")[0]
    began_s = time.monotonic()
    try:
        found = scenario(stage)
    except Skipped as skipped:
        return Outcome(name, what, "skipped", str(skipped))
    except (NotMet, TimeoutError) as fault:
        asked = stage.since(began_s)
        lost = sum(one.lost for one in asked)
        return Outcome(name, what, "FAILS", str(fault), len(asked), lost)
    return Outcome(
        name,
        found.done,
        "holds",
        sent=len(found.asked),
        lost=sum(one.lost for one in found.asked),
        recovered_s=found.recovered_s,
        slowest_s=max((one.sample.latency_s for one in found.asked), default=None),
    )


def _keep_logs(folder: Path) -> None:
    for pod in namespaces.SCRATCH.iterdir():
        target = folder / pod.name
        target.mkdir(parents=True, exist_ok=True)
        if (pod / "output.log").exists():
            shutil.copy(pod / "output.log", target)
        for session in (pod / "tmp" / "ray").glob("session_2*/logs"):
            shutil.copytree(session, target / session.parent.name, dirs_exist_ok=True)


def _command() -> str:
    """The command line to repeat it with."""
    asked = shlex.join(one for one in sys.argv[1:] if one != "--inside")
    return f"make rehearse ARGS={shlex.quote(asked)}" if asked else "make rehearse"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.rehearsal", description=__doc__)
    parser.add_argument(
        "--overlay", type=Path, default=ROOT / "deploy" / "overlays" / "production",
        help="a folder that kubectl apply -k takes",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a subset, within 5 minutes")
    parser.add_argument("--only", nargs="+", choices=tuple(FULL), help="these scenarios")
    parser.add_argument(
        "--denoiser", choices=("as-configured", "fixed-step"), default="fixed-step",
        help="whether the miniature draws where the overlay serves it",
    )  # fmt: skip
    parser.add_argument(
        "--pods", type=int, default=1,
        help="at most so many a worker group, and replicas a variant, to begin with",
    )  # fmt: skip
    parser.add_argument("--rate", type=float, default=2, help="requests a second")
    parser.add_argument("--logs", type=Path, help="keep the pods' logs here")
    parser.add_argument("--report", type=Path, default=REPORT, help="where a full run writes to")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
