"""One step in this process: `python -m loadtests.bench.gpu.step NAME`, as `__main__` starts it."""

import argparse
import sys
import warnings
from pathlib import Path

import diffusers
import transformers

from serve.catalogue import family
from serve.pipelines.devices import resolve_device
from serve.weights.layout import architecture_dir, family_dir
from serve.weights.random_values import write_random_components

from .findings import Journal, Questions
from .questions import STEPS, Bench


def main() -> int:
    """Ask what the step asks; 1 where a question had no answer."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench.gpu.step")
    parser.add_argument("name", choices=["weights", *STEPS])
    for option in ("--out", "--weights-dir"):
        parser.add_argument(option, type=Path)
    for option in ("--device", "--family"):
        parser.add_argument(option)
    args = parser.parse_args()
    if args.name == "weights":
        published = family("sd-v1")
        components = published.components(published.default_variants)
        partial = args.weights_dir.with_name(f"{args.weights_dir.name}-partial")
        write_random_components(partial, architecture_dir("sd-v1"), components)
        partial.rename(args.weights_dir)
        return 0
    warnings.simplefilter("ignore")
    diffusers.logging.disable_progress_bar()
    transformers.logging.disable_progress_bar()
    device, _ = resolve_device(args.device)
    folder = args.weights_dir or family_dir(args.family, None)
    questions = Questions(Journal(args.out), args.name)
    STEPS[args.name](Bench(device, args.family, folder, questions))
    return 1 if questions.failed else 0


if __name__ == "__main__":
    sys.exit(main())
