"""`make bench`: our pipelines against diffusers' own, on the device that is there.

One process, the contenders in turn, repeated, with the spread shown. On a GPU the published
architectures run in fp16 at 512x512, with random values unless a family folder is given (how long
a picture takes doesn't depend on them); on a CPU the embedded miniature runs in fp32. Needs only
torch, diffusers and transformers, so that it runs on a bare GPU machine, too.

A table for people goes to the terminal and to a report; the last line is the result as JSON.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, get_args

import diffusers
import transformers

from serve.devices import DeviceName, resolve_device
from serve.errors import ServingError
from serve.variants import FamilyName, family
from serve.weights.layout import architecture_dir, family_dir
from serve.weights.random_values import write_random_components

from .report import bars_missed, render
from .sections import Plan, measure, run_architecture


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
    parser.add_argument("--rounds", type=int, default=7, help="repeats of every comparison")
    parser.add_argument("--quick", action="store_true", help="three rounds, batches 1 and 4")
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
    return Plan(
        device=args.device,
        family=name,
        variants=variants,
        batches=tuple(sorted({int(one) for one in batches.split(",")})),
        rounds=3 if args.quick else args.rounds,
    )


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
    result["bars_missed"] = bars_missed(result)
    result["not_run"] = _not_run(result)
    text = render(result)
    kind = "cpu" if result["device"].startswith("CPU") else result["device"]
    name = f"bench-{plan.family}-{kind}".lower().replace(" ", "-")
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{name}.md").write_text(text)
    (args.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    _tell(f"\n{text}\nWritten to {args.out / name}.md and .json")
    print(json.dumps(result))
    return 1 if result["bars_missed"] else 0


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
