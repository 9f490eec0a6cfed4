"""`python -m loadtests.compare`: which variant to pay for, measured over an endpoint.

With --host against a running endpoint; without, against a service of its own on the embedded
miniature. Writes report.html, report.md, report.json and samples.csv. Ctrl-C keeps what was
measured and writes a partial report. `join a/report.json b/report.json ... [--out DIR]` makes one
table of reports of several devices.
"""

import argparse
import asyncio
import contextlib
import shlex
import signal
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

from serve.errors import ServingError
from serve.generation import SchedulerName

from ..client import connected
from ..keys import KEY_HELP, environments_key, without_key
from ..workload import Workload
from . import join
from .campaign import Campaign
from .conclusion import Conclusion, Setup, conclude
from .design import Design
from .endpoint import Endpoint, NotTheService, asked_again, read
from .frontier import levels
from .gate import changes, check_comparable, read_json, read_report
from .plan_check import check_plan, planned_rates
from .record import Record
from .report import write
from .service import own_service

_print = partial(print, flush=True)
# From what dpm++ can do with the least to twice the service's default.
_FRONTIER_STEPS = (4, 8, 12, 16, 20, 25, 50)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--host", help="http://127.0.0.1:8000; without it a service is started here")
    add("--quick", action="store_true", help="at most 3.3 minutes instead of 18; no p95 is decided")
    add("--out", type=Path, default=Path("comparison"), help="folder of the report")
    measured = parser.add_argument_group("what is measured")
    add = measured.add_argument
    add("--variants", default="", help="a,b: the first is the reference; default: all")
    add("--steps", type=_between(1, 150, int), help="of both loops; default: the variant's own")
    add("--size", help="WIDTHxHEIGHT; default: the variant's own")
    add("--auto", action="store_true", help="measure `auto`, too: 30 %% of the time is kept for it")
    add("--edits", type=_share, default=0.0, help="share of the requests that are edits, 0 to 1")
    add("--guidance", type=float, help="default: the variant's own")
    add("--seed", type=int, default=0, help="of prompts, seeds and arrivals")
    add("--minutes", type=_positive, help="at most; what doesn't fit is left out and named")
    add("--rounds", type=_between(1, 100, int), help="repeats of seed workload and closed loop")
    add("--slo", type=_positive, help="seconds that 95 of 100 requests should keep")
    add("--slo-factor", type=_positive, default=3.0, help="or: so many single-user times")
    add("--most-rejected", type=_share, default=0.01, help="share of 429s that is all right")
    add("--timeout", type=_positive, default=120.0, help="seconds until a request has failed")
    add("--key", default=environments_key(), help=KEY_HELP)
    frontier = parser.add_argument_group("the frontier of cost and quality")
    add = frontier.add_argument
    add("--frontier", action="store_true", help="measure it, in 8 minutes more; quick 3")
    add("--frontier-steps", type=_steps, help="with these: 4,10,25; default: 4,8,12,16,20,25,50")
    add("--frontier-schedulers", type=_schedulers, help="default: the variant's own and dpm++")
    setup = parser.add_argument_group("what the report quotes")
    add = setup.add_argument
    add("--device", help="what a replica runs on, in words; default: what it says of itself")
    add(
        "--devices-per-replica", type=_positive, default=1.0, help="a fraction where they share one"
    )
    add("--price-per-hour", type=_positive, help="of a device, in any currency")
    add("--serve-config", type=Path, help="the file the service was started with, to be quoted")
    more = parser.add_argument_group("what more is judged")
    add = more.add_argument
    add("--weights-dir", type=_folder, help="the family folder, to compare the VAEs here")
    add("--clip", type=_folder, help="folder of a CLIP model, for the CLIP score of real weights")
    add("--plan", type=Path, help="plan.json of loadtests.plan, to see how right it was")
    add("--baseline", type=Path, help="an earlier report.json; exit status 1 where this is worse")
    add("--tolerance", type=_share, default=0.1, help="beside the noise")
    return parser


def _between(low: float, high: float, number: type[int] | type[float] = float) -> Any:
    def parse(text: str) -> float:
        value = number(text)
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} was given; allowed: {low:g} to {high:g}")
        return value

    parse.__name__ = "number"  # How argparse calls it where the text is none.
    return parse


_share = _between(0, 1)
_positive = _between(1e-9, 1e9)


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return Path(text)


def _steps(text: str) -> tuple[int, ...]:
    return tuple(_between(1, 150, int)(part) for part in text.split(","))


_steps.__name__ = "list of numbers"


def _schedulers(text: str) -> tuple[str, ...]:
    for name in text.split(","):
        if name not in get_args(SchedulerName):
            raise argparse.ArgumentTypeError(
                f"{name!r} was given; allowed: {', '.join(get_args(SchedulerName))}"
            )
    return tuple(text.split(","))


def main() -> int:
    """Measure, write, print; 1 where requests failed, it was interrupted, or a figure is worse."""
    joins = sys.argv[1:2] == ["join"]
    args = argparse.Namespace() if joins else _parser().parse_args()
    # SIGTERM, too, leaves a partial report and no service behind.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # A script's background process has inherited that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return join.main(sys.argv[2:]) if joins else _compare(args)
    except (ServingError, OSError, RuntimeError) as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("distilled-sd-serve: interrupted before anything was measured", file=sys.stderr)
        return 1


def _compare(args: argparse.Namespace) -> int:
    # Errors in the arguments are found before minutes of measuring.
    baseline = read_report(args.baseline) if args.baseline else None
    plan = read_json(args.plan, "plan", "replicas") if args.plan else None
    serve_config = args.serve_config.read_text() if args.serve_config else ""
    began, record = time.strftime("%Y-%m-%dT%H:%M:%S%z"), Record()
    with contextlib.ExitStack() as stack:
        url = args.host
        if url is None:
            _print("Starting a service on the embedded miniature ...")
            url = stack.enter_context(own_service(args.variants or "all", args.slo))
        endpoint, design = asyncio.run(_measure(args, url, record, plan, baseline))
    device = endpoint.device or "not named"
    setup = Setup(
        command=shlex.join(
            ["python", "-m", "loadtests.compare", *without_key(sys.argv[1:], args.key)]
        ),
        device=args.device or (f"one core ({device})" if args.host is None else device),
        devices_per_replica=args.devices_per_replica,
        price_per_hour=args.price_per_hour,
        serve_config=serve_config,
    )
    more: dict[str, Any] = {}
    if plan is not None:
        more["plan_checks"] = check_plan(plan, endpoint.replicas, design, record)
    if not record.interrupted:
        # What took minutes to measure is written down whatever becomes of this.
        try:
            here = endpoint.family == "miniature" or args.weights_dir or args.clip
            if here and not endpoint.random_weights:
                # Importing torch takes seconds, and only this needs it.
                from .decoders import judge

                judge(endpoint, design, record, args.weights_dir, args.clip, more)
        except KeyboardInterrupt:
            record.interrupted = True
        except (ServingError, OSError, ValueError, RuntimeError) as fault:
            record.left_out.append(f"what needs the models here: {fault}")
    conclusion = conclude(design, endpoint, setup, began, record, **more)
    if baseline is not None and not record.interrupted:
        gate = changes(baseline, conclusion.as_json(), args.tolerance)
        conclusion = replace(conclusion, gate=gate)
    write(conclusion, args.out)
    return _print_verdict(conclusion, args.out)


async def _measure(
    args: argparse.Namespace,
    url: str,
    record: Record,
    plan: dict[str, Any] | None,
    baseline: dict[str, Any] | None,
) -> tuple[Endpoint, Design]:
    """Carry it out; an interruption is noted in the record, which keeps what there is."""
    async with connected(url, args.timeout, args.key) as client:
        endpoint = await read(client, url)
        design = _design(args, endpoint)
        if baseline is not None:
            check_comparable(baseline, endpoint.family, design.workload)
        planned = planned_rates(plan, endpoint.replicas) if plan else {}
        _print(f"At most {design.whole_s / 60:.1f} minutes; Ctrl-C writes a partial report.")
        try:
            settings = levels(design, endpoint)
            await Campaign(client, design, record, planned, settings).carry_out()
            endpoint = await asked_again(client, endpoint)
        except asyncio.CancelledError:
            record.interrupted = True
    return endpoint, design


def _design(args: argparse.Namespace, endpoint: Endpoint) -> Design:
    variants = tuple(filter(None, args.variants.split(","))) or tuple(endpoint.models)
    for variant in variants:
        if variant not in endpoint.models:
            raise NotTheService(
                f"variants: {variant!r} was given; {endpoint.url} serves "
                f"{', '.join(endpoint.models)}"
            )
    if args.auto and endpoint.auto is None:
        raise NotTheService(f"auto: {endpoint.url} offers none")
    measured = endpoint.auto_variants if args.auto else ()
    design = Design(
        variants=variants,
        workload=Workload.shipped(
            endpoint.family,
            seed=args.seed,
            num_inference_steps=() if args.steps is None else (args.steps,),
            size=args.size,
            guidance_scale=args.guidance,
            edits=args.edits,
        ),
        own_steps={
            name: args.steps or endpoint.models[name]["defaults"]["num_inference_steps"]
            for name in variants
        },
        most_steps={
            name: endpoint.models[name]["bounds"]["num_inference_steps"][1] for name in variants
        },
        auto_against=tuple(variant for variant in measured if variant in variants),
        auto_slo_s=None if endpoint.auto is None else endpoint.auto.get("slo_s"),
        slo_s=args.slo,
        slo_factor=args.slo_factor,
        most_rejected=args.most_rejected,
    )
    if args.frontier or args.frontier_steps or args.frontier_schedulers:
        design = replace(
            design,
            frontier_steps=args.frontier_steps or _FRONTIER_STEPS,
            frontier_schedulers=args.frontier_schedulers or (),
        )
    if args.quick:
        design = design.quick()
    if args.rounds:
        design = replace(design, rounds=args.rounds)
    return design.within(args.minutes * 60) if args.minutes else design


def _print_verdict(conclusion: Conclusion, out: Path) -> int:
    failed = len(conclusion.record.failures())
    worse = [change for change in conclusion.gate if change.worse]
    _print("")
    for sentence in conclusion.verdict:
        _print(sentence)
    if conclusion.record.left_out:
        _print("Left out: " + "; ".join(conclusion.record.left_out))
    for change in worse:
        _print(
            f"WORSE than the baseline: {change.variant}, {change.figure}: {change.before:.3g} "
            f"before, {change.now:.3g} now ({change.change:+.1%}, allowed {change.allowed:.1%})"
        )
    if failed:
        _print(f"{failed} requests FAILED; the report says why")
    if conclusion.record.interrupted:
        _print("INTERRUPTED: the report is partial")
    _print(f"Report: {out / 'report.html'} (and report.md, report.json, samples.csv)")
    return 1 if failed or worse or conclusion.record.interrupted else 0


if __name__ == "__main__":
    sys.exit(main())
