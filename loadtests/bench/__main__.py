"""`make bench`: our engine against diffusers' own pipeline, and its policies, on what is there.

One process, the contenders in turn, repeated, with the spread shown. On a GPU the published
architectures run in fp16 at 512x512, with random values unless a family folder is given (how long
a picture takes doesn't depend on them); on a CPU the embedded miniature runs in fp32. Needs only
torch, diffusers and transformers, so that it runs on a bare GPU machine, too.

A table for people goes to the terminal and to a report; the last line is the result as JSON.
"""

import argparse
import json
import math
import re
import shlex
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, get_args

import diffusers
import transformers

from serve.errors import ServingError
from serve.pipelines.devices import DeviceName, resolve_device
from serve.variants import FamilyName, family
from serve.weights.layout import architecture_dir, family_dir
from serve.weights.random_values import write_random_components

from .overlap import Scope
from .policies import MIXES, Cell, Traffic
from .report import render
from .run import Plan, measure
from .sections import run_architecture


def _not_run(result: dict[str, Any]) -> list[str]:
    missing = []
    if result["device"].startswith("CPU"):
        missing.append("the published architectures in fp16 at 512x512: no CUDA device here")
        if "architecture" not in result:
            missing.append("whether the full-size models load: pass --architecture")
    if result["random_weights"]:
        missing.append("pictures of trained weights: these values are random")
    return missing


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--device", choices=get_args(DeviceName), default="auto")
    parser.add_argument(
        "--family", choices=get_args(FamilyName), help="default: sd-v1 on a GPU, else the miniature"
    )
    parser.add_argument("--weights-dir", type=Path, help="default: random values, made for the run")
    parser.add_argument("--variants", default="", help="a,b; default: all")
    parser.add_argument("--batches", default="1,2,4,8", help="images a call")
    parser.add_argument("--rounds", type=int, default=5, help="repeats against stock")
    parser.add_argument(
        "--loads",
        default="mixed:0.5,mixed:0.7,mixed:0.9,uniform:0.5,uniform:0.7",
        help="mix of steps : share of what policy `batch` draws from a full queue, ...",
    )
    parser.add_argument("--repeats", type=int, default=5, help="of the same arrivals, each policy")
    parser.add_argument(
        "--requests",
        type=int,
        help="in a repeat, half as many again at mixed:0.7; default: 20, on a GPU 100",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="three rounds, batches 1 and 4, two repeats of mixed:0.7",
    )
    parser.add_argument(
        "--architecture",
        action="store_true",
        help="also run one step of the full-size models, on a CPU, too (10 GB, minutes)",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "reports")
    return parser


def _plan(parser: argparse.ArgumentParser, args: argparse.Namespace) -> Plan:
    device, _ = resolve_device(args.device)
    name: FamilyName = args.family or ("sd-v1" if device.type == "cuda" else "miniature")
    known = family(name).variants
    variants = tuple(one for one in args.variants.split(",") if one) or tuple(known)
    for one in variants:
        if one not in known:
            parser.error(f"--variants: {one!r} was given; allowed: {', '.join(known)}")
    batches = args.batches if not args.quick else "1,4"
    if not all(one.isdigit() and 1 <= int(one) <= 64 for one in batches.split(",")):
        parser.error(f"--batches: {batches!r} was given; allowed: numbers from 1 to 64")
    if args.rounds < 1:
        parser.error(f"--rounds: {args.rounds} was given; it must be at least 1")
    for option in ("repeats", "requests"):
        given = getattr(args, option)
        if given is not None and given < 1:
            parser.error(f"--{option}: {given} was given; it must be at least 1")
    requests = args.requests or (100 if device.type == "cuda" else 20)
    repeats = 2 if args.quick else args.repeats
    return Plan(
        device=args.device,
        family=name,
        variants=variants,
        batches=tuple(sorted({int(one) for one in batches.split(",")})),
        rounds=3 if args.quick else args.rounds,
        traffic=Traffic(
            _cells(parser, "mixed:0.7" if args.quick else args.loads, requests), repeats
        ),
        beside=Scope(repeats, requests, cancels=5 * requests),
        simulated_requests=1000 if args.quick else 4000,
    )


def _cells(parser: argparse.ArgumentParser, loads: str, requests: int) -> tuple[Cell, ...]:
    cells = []
    for one in loads.split(","):
        mix, _, load = one.partition(":")
        try:
            share = float(load)
        except ValueError:
            share = math.nan
        if mix not in MIXES or not 0 < share < 1:
            parser.error(
                f"--loads: {one!r} was given; allowed: {' or '.join(MIXES)}, a colon, and a share "
                "between 0 and 1"
            )
        # A bar depends on this one.
        many = requests + requests // 2 if (mix, share) == ("mixed", 0.7) else requests
        cells.append(Cell(mix, share, many))
    return tuple(cells)


def main() -> int:
    """Measure, print, write; 0 unless a bar is missed or something is wrong."""
    parser = _parser()
    args = parser.parse_args()
    try:
        return _run(_plan(parser, args), args)
    except (ServingError, OSError) as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 1


def _run(plan: Plan, args: argparse.Namespace) -> int:
    started_at = time.perf_counter()
    warnings.simplefilter("ignore")
    diffusers.logging.set_verbosity_error()
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        made = Path(scratch)
        if plan.family == "sd-v1" and args.weights_dir is None:
            _make_full_size(made)
            folder = made
        else:
            folder = family_dir(plan.family, args.weights_dir)
        result = measure(plan, folder, _tell)
        result["random_weights"] = folder == made or _says_random(folder)
        if args.architecture and plan.family != "sd-v1":  # Else they have just been measured.
            # After the rest: on a CPU the peak of memory is the whole process's.
            _make_full_size(made)
            result["architecture"] = run_architecture(made, plan.device, _tell)
    result["command"] = shlex.join(["python", "-m", "loadtests.bench", *sys.argv[1:]])
    result["seconds"] = time.perf_counter() - started_at
    result["not_run"] = _not_run(result)
    text = render(result)
    kind = "cpu" if result["device"].startswith("CPU") else result["device"]
    name = f"bench-{plan.family}-{kind}".lower().replace(" ", "-")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.md").write_text(text)
    (args.out / f"{name}.json").write_text(_compact(json.dumps(result, indent=1)) + "\n")
    _tell(f"\n{text}\nWritten to {args.out / name}.md and .json")
    print(json.dumps(result))
    missed = [bar for bar in result["bars"] if bar["state"] == "missed" and not bar["goal"]]
    return 1 if missed else 0


def _compact(text: str) -> str:
    """JSON with the innermost lists of numbers on one line each."""
    return re.sub(r"\[\s+([-+.\de,\s]+?)\s+\]", lambda it: f"[{' '.join(it[1].split())}]", text)


def _make_full_size(folder: Path) -> None:
    _tell("Making the published architectures with random values ...")
    published = family("sd-v1")
    components = published.components(published.variants)
    write_random_components(folder, architecture_dir("sd-v1"), components)


def _says_random(folder: Path) -> bool:
    # Not through serve.weights.manifest: a bare GPU machine has no pydantic.
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        return any(one["origin"]["kind"] == "random" for one in manifest["components"].values())
    except (OSError, ValueError, KeyError):
        return False


def _tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
