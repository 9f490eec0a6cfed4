"""`make bench`: our engine against diffusers' own pipeline, and its policies, on what is there.

One process, the contenders in turn, repeated, with the spread shown. On a GPU the published
architectures run in fp16 at 512x512, with random values unless a family folder is given (how long
a picture takes doesn't depend on them); on a CPU the embedded miniature runs in fp32. Needs only
torch, diffusers and transformers, so that it runs on a bare GPU machine, too.

Tables go to the terminal and to a report, which is written anew after each section, the most
valuable first; the last line is the result as JSON. The exit status is 1 where a bar is missed.
"""

import argparse
import json
import math
import shlex
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, get_args

import diffusers
import transformers

from serve.catalogue import family
from serve.errors import ServingError
from serve.pipelines.devices import DeviceName, device_name, resolve_device
from serve.variants import FamilyName
from serve.weights.layout import architecture_dir, family_dir
from serve.weights.random_values import write_random_components

from ..output import REPORTS, publish, write
from .report import render
from .run import EngineRun, measure

_progress = partial(print, flush=True)


def main() -> int:
    """Measure, print, write; 0 unless a bar is missed or something is wrong."""
    parser = _parser()
    args = parser.parse_args()
    try:
        return _run(_engine_run(parser, args), args)
    except (ServingError, OSError) as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.engine", description=__doc__)
    add = parser.add_argument
    add("--device", choices=get_args(DeviceName), default="auto")
    add("--family", choices=get_args(FamilyName), help="default: sd-v1 on a GPU, else miniature")
    add("--weights-dir", type=Path, help="default: random values, made for the run")
    add("--variants", default="", help="a,b; default: all")
    add("--batches", default="1,2,4,8", help="images a call")
    add("--rounds", type=int, default=5, help="of the contenders, and of policies under load")
    add("--requests", type=int, help="in a round of a load; default: 30, on a GPU 100")
    add("--quick", action="store_true", help="three rounds, batches 1 and 4, two at one load")
    add("--budget", type=float, default=math.inf, help="seconds; what doesn't fit is left out")
    add("--resume", action="store_true", help="measure only what the report in --out lacks")
    add("--out", type=Path, default=REPORTS)
    return parser


def _engine_run(parser: argparse.ArgumentParser, args: argparse.Namespace) -> EngineRun:
    device, _ = resolve_device(args.device)
    name: FamilyName = args.family or ("sd-v1" if device.type == "cuda" else "miniature")
    known = family(name).variants
    variants = tuple(filter(None, args.variants.split(","))) or family(name).default_variants
    for variant in variants:
        if variant not in known:
            parser.error(f"--variants: {variant!r} was given; allowed: {', '.join(known)}")
    batches = args.batches if not args.quick else "1,4"
    if not all(batch.isdecimal() and 1 <= int(batch) <= 64 for batch in batches.split(",")):
        parser.error(f"--batches: {batches!r} was given; allowed: numbers from 1 to 64")
    requests = args.requests or (100 if device.type == "cuda" else 30)
    for option, given in (("rounds", args.rounds), ("requests", requests)):
        if given < 1:
            parser.error(f"--{option}: {given} was given; it must be at least 1")
    return EngineRun(
        device=args.device,
        family=name,
        variants=variants,
        batches=tuple(sorted({int(batch) for batch in batches.split(",")})),
        rounds=3 if args.quick else args.rounds,
        loads=(0.7,) if args.quick else (0.5, 0.7, 0.9),
        requests=requests,
        load_rounds=2 if args.quick else args.rounds,
    )


def _run(run: EngineRun, args: argparse.Namespace) -> int:
    started_at = time.perf_counter()
    command = shlex.join(["python", "-m", "loadtests.bench.engine", *sys.argv[1:]])
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        made = Path(scratch)
        if run.family == "sd-v1" and args.weights_dir is None:
            _progress("Making the published architectures with random values ...")
            published = family("sd-v1")
            components = published.components(run.variants)
            write_random_components(made, architecture_dir("sd-v1"), components)
            folder = made
        else:
            folder = family_dir(run.family, args.weights_dir)
        device = device_name(resolve_device(run.device)[0])
        kind = "cpu" if device.startswith("CPU") else device
        name = f"bench-{run.family}-{kind}".lower().replace(" ", "-")
        earlier = None
        if args.resume:
            earlier = json.loads((args.out / f"{name}.json").read_text())

        def keep(result: dict[str, Any]) -> None:
            result["random_weights"] = folder == made or _has_random_weights(folder)
            result["command"] = command
            result["seconds"] = before_s + time.perf_counter() - started_at
            write(result, render(result), args.out, name)

        before_s = 0.0 if earlier is None else earlier["seconds"]
        result = measure(run, folder, _progress, keep, earlier, args.budget)
        keep(result)
    return publish(result, render(result), args.out, name)


def _has_random_weights(folder: Path) -> bool:
    # Not through serve.weights.manifest: a bare GPU machine has no pydantic.
    try:
        components = json.loads((folder / "manifest.json").read_text())["components"].values()
        return any(component["origin"]["kind"] == "random" for component in components)
    except (OSError, ValueError, KeyError):
        return False


if __name__ == "__main__":
    sys.exit(main())
