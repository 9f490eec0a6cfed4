"""`python -m loadtests.bench.gpu`: what a new GPU answers within minutes, most valuable first.

Steps: {steps}.

A second call with the same --out resumes: steps that ran to their end are not repeated, and what
was compiled is used again. On a CPU, `--device cpu --family miniature` asks the same of small
models, which shows that the questions work, and nothing of a GPU.
"""

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import get_args

from serve.variants import FamilyName

from .findings import ENDED, Finding, Journal, render

LIMITS_S: dict[str, float] = {
    "env": 60,
    "smoke": 150,
    "eager": 90,
    "full": 210,
    "vae": 60,
    "packed": 210,
    "ablate": 240,
    "tests": 300,
    "sanitizer": 60,
}
"""The steps, most valuable first, and the most seconds that each may take."""
NEEDS_WEIGHTS = {"eager", "full", "vae", "packed", "ablate"}
# Starting an interpreter and importing torch takes most of it.
_LEAST_S = 15.0
_print = partial(print, flush=True)


def main() -> int:
    """Run the steps; 1 where one has failed, been killed or been left out."""
    parser = _parser()
    args = parser.parse_args()
    names = args.steps.split(",")
    for name in names:
        if name not in LIMITS_S:
            parser.error(f"--steps: {name!r} was given; allowed: {', '.join(LIMITS_S)}")
    if args.budget <= 0:
        parser.error(f"--budget: {args.budget:g} was given; allowed: more than 0 seconds")
    # SIGTERM, too, leaves no step behind.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    # A script's background process has inherited that SIGINT is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    args.out.mkdir(parents=True, exist_ok=True)
    journal = Journal(args.out)
    to_do = set(names) - journal.finished()
    maker = _make_weights(args) if NEEDS_WEIGHTS & to_do else None
    try:
        complete = _run(args, names, journal, maker)
    finally:
        if maker is not None and maker.poll() is None:
            _kill(maker)
    report = render(
        journal.read(), shlex.join(["python", "-m", "loadtests.bench.gpu", *sys.argv[1:]])
    )
    (args.out / "findings.md").write_text(report)
    _print(f"\n{report}\nWritten to {args.out / 'findings.md'} and findings.jsonl; log in log.txt")
    return 0 if complete else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.bench.gpu",
        description=(__doc__ or "").format(steps=", ".join(LIMITS_S)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of findings, log and compile caches")
    add("--budget", type=float, default=480.0, help="seconds for everything; default: 480")
    add("--steps", default=",".join(LIMITS_S), help="a,b; default: all")
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--family", choices=get_args(FamilyName), default="sd-v1")
    add("--weights-dir", type=Path, help="default: random values, made while the first steps run")
    return parser


def _run(
    args: argparse.Namespace,
    names: list[str],
    journal: Journal,
    maker: "subprocess.Popen[bytes] | None",
) -> bool:
    """Every step that has time left; whether all have run to their end."""
    ends_s, complete = time.monotonic() + args.budget, True
    for name in names:
        if name in journal.finished():
            _print(f"{name}: has run to its end before")
            continue
        if maker is not None and name in NEEDS_WEIGHTS:
            with contextlib.suppress(subprocess.TimeoutExpired):
                maker.wait(max(0.0, ends_s - time.monotonic()))
        left_s = ends_s - time.monotonic()
        if left_s < _LEAST_S:
            journal.write(Finding(name, ENDED, f"not begun: {left_s:.0f} s left", failed=True))
            complete = False
            continue
        # A rehearsal may take as long as the CPU needs.
        how, failed = _step(
            args, name, min(LIMITS_S[name], left_s) if args.device == "cuda" else left_s
        )
        journal.write(Finding(name, ENDED, how, failed))
        complete &= not failed
    return complete


def _step(args: argparse.Namespace, name: str, limit_s: float) -> tuple[str, bool]:
    """Run one step in a process of its own; how it ended, and whether it failed."""
    began_s = time.monotonic()
    process = _start(args, [sys.executable, "-m", "loadtests.bench.gpu.step", name], name)
    try:
        status = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"killed after {limit_s:.0f} s", True
    except BaseException:
        _kill(process)
        raise
    return f"exit status {status} after {time.monotonic() - began_s:.0f} s", status != 0


def _make_weights(args: argparse.Namespace) -> "subprocess.Popen[bytes] | None":
    """Random weights of the published architectures, made beside the first steps."""
    if args.weights_dir is not None or args.family != "sd-v1":
        return None
    args.weights_dir = Path(tempfile.gettempdir()) / "random-sd-v1"
    if args.weights_dir.is_dir():
        return None
    return _start(args, [sys.executable, "-m", "loadtests.bench.gpu.step", "weights"], "weights")


def _start(args: argparse.Namespace, command: list[str], name: str) -> "subprocess.Popen[bytes]":
    command += ["--out", str(args.out), "--device", args.device, "--family", args.family]
    if args.weights_dir is not None:
        command += ["--weights-dir", str(args.weights_dir)]
    caches = args.out.resolve() / "compile-cache"
    environment = os.environ | {
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(caches),
        "TRITON_CACHE_DIR": str(caches / "triton"),
    }
    # Without CUDA torch refuses to start with it.
    if name == "sanitizer" and args.device == "cuda":
        environment["TORCH_CUDA_SANITIZER"] = "1"
    with (args.out / "log.txt").open("a") as log:
        log.write(f"\n=== {name}\n")
        log.flush()
        # A session of its own: a step's own processes end with it.
        return subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    sys.exit(main())
