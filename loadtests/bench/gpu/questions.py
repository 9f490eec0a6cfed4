"""What each step asks. Those that need CUDA itself ask less on a CPU, and say so."""

import importlib.metadata as metadata
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from serve.catalogue import MINIATURE, family
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.compile import (
    prepare_decoder,
    prepare_text_encoder,
    prepare_unet,
    unet_inputs,
)
from serve.pipelines.components import Vae, load_components
from serve.pipelines.cuda_graphs import Call, Inputs, Recording, record_sizes
from serve.pipelines.devices import DeviceName, device_name, resolve_device
from serve.pipelines.optimisations import DEFAULTS, Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.readiness import Readiness
from serve.pipelines.trajectories import guide
from serve.variants import FamilyName, Variant

from ...machine import commit
from ...published import CALLS, IMAGES_A_CALL, PROMPT
from ...published import STEPS as PUBLISHED_STEPS
from ...rounds import Spread
from ..engine.contenders import EAGER, Ours, Stock
from ..engine.sections import OPTIMISATIONS, against_stock, mean_difference, stages
from ..engine.timing import Clock
from .findings import SEED_WORKLOAD, Questions

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Bench:
    """Where to ask: a device, and a family folder."""

    device: torch.device
    family: FamilyName
    folder: Path
    questions: Questions

    @property
    def cuda(self) -> bool:
        """Whether this is a GPU; on a CPU it is a rehearsal, with little work."""
        return self.device.type == "cuda"

    @property
    def device_name(self) -> DeviceName:
        """The device as it is configured."""
        return "cuda" if self.cuda else "cpu"

    @property
    def steps(self) -> int:
        """Denoising steps of a picture."""
        return PUBLISHED_STEPS if self.cuda else 2

    @property
    def batches(self) -> tuple[int, ...]:
        """Images a call."""
        return (1, 2, 4, 8, 16) if self.cuda else (1, 2, 3)

    def variants(self) -> list[Variant]:
        """Of the family, the reference first."""
        served = family(self.family)
        return [served.variants[name] for name in served.default_variants]

    def load(self, variants: Sequence[Variant], optimisations: Optimisations) -> Pipeline:
        """Load variants, and note what became of the optimisations."""
        loaded = Pipeline.load(variants, self.folder, self.device_name, optimisations)
        self.questions.note("readiness", _readiness(loaded))
        return loaded


def env(bench: Bench) -> None:
    """What is installed, which device it is, and whether the compiler works at all."""
    note, ask = bench.questions.note, bench.questions.ask
    note("commit", commit())
    note("device", device_name(bench.device))
    for name in ("torch", "triton", "diffusers", "transformers", "numpy"):
        ask(f"version of {name}", partial(_version, name))
    if bench.cuda:
        query = [
            "nvidia-smi",
            "--query-gpu=name,memory.total,driver_version",
            "--format=csv,noheader",
        ]
        ask(
            "driver",
            lambda: subprocess.run(query, capture_output=True, text=True, check=True).stdout,
        )
        ask("capability", torch.cuda.get_device_capability)
        ask("cuDNN", torch.backends.cudnn.version)

        def compiles() -> float:
            double: Callable[[torch.Tensor], torch.Tensor] = torch.compile(lambda x: (x * 2).sum())
            return float(double(torch.ones(1000, device=bench.device)))

        ask("a compiled function's sum of 1000 times 2", compiles)


def smoke(bench: Bench) -> None:
    """The miniature with each optimisation: needs no other weights, and fails within seconds."""
    ask = bench.questions.ask
    kinds = {
        "no optimisation": EAGER,
        "channels_last": replace(EAGER, channels_last=True),
        "recorded": replace(OPTIMISATIONS, compile=False),
        "as shipped": OPTIMISATIONS,
    }
    variants = [MINIATURE.variants[name] for name in MINIATURE.default_variants]
    stocks = {it.name: Stock(it, WEIGHTS_DIR, bench.device_name) for it in variants}
    for name, kind in kinds.items():
        load = partial(Pipeline.load, variants, WEIGHTS_DIR, bench.device_name, kind)
        pipeline = ask(f"{name}: loads", load, _readiness)
        if pipeline is None:
            continue
        for variant in variants:
            ask(
                f"{name}: `{variant.name}` against stock, mean difference",
                partial(_parity, pipeline, variant, stocks[variant.name], bench.steps),
            )
        ask(f"{name}: the engine draws the same twice", partial(_twice, pipeline, variants[0]))


def eager(bench: Bench) -> None:
    """The reference at full size without the compiler: whether it works, and what to beat."""
    variant = bench.variants()[0]
    pipeline = bench.load([variant], replace(OPTIMISATIONS, compile=False))
    clock, ours = Clock(bench.device), Ours(pipeline, variant)
    try:
        _stages(bench, ours, clock)
        stock = Stock(variant, bench.folder, bench.device_name)
        for images in (1, 4) if bench.cuda else (1,):
            bench.questions.ask(
                f"against stock, {images} image(s)",
                partial(against_stock, ours, stock, images, bench.steps, 3, clock),
            )
    finally:
        ours.close()


def full(bench: Bench) -> None:
    """The reference as shipped: compiled and recorded."""
    note, ask = bench.questions.note, bench.questions.ask
    variant = bench.variants()[0]
    pipeline = bench.load([variant], OPTIMISATIONS)
    clock, ours = Clock(bench.device), Ours(pipeline, variant)
    try:
        _stages(bench, ours, clock)
        for images in (1, 8) if bench.cuda else (1,):
            draw = partial(ours.draw, PROMPT, range(images), bench.steps)
            ask(f"{images} image(s) through the engine, s", partial(_spread, draw, 4, clock))
        if bench.cuda:
            note("peak memory, bytes", torch.cuda.max_memory_allocated())
            for images in (1, 8):
                ask(f"kernels of a step of {images}", partial(_kernels, ours, images))
        stock = Stock(variant, bench.folder, bench.device_name)
        ask("against stock, 1 image", partial(against_stock, ours, stock, 1, bench.steps, 3, clock))
    finally:
        ours.close()


def vae(bench: Bench) -> None:
    """How long each VAE decodes an image in, by how many are decoded at once."""
    ask, variant = bench.questions.ask, bench.variants()[0]
    device, dtype = resolve_device(bench.device_name)
    parts = load_components([variant], bench.folder, device, dtype)[variant.name]
    size_px, clock = variant.default_size_px, Clock(device)

    @torch.inference_mode()
    def decode_ms(model: Vae) -> dict[int, float]:
        found = {}
        for images in (1, 2, 4, 8):
            latents = torch.randn(images, 4, size_px // 8, size_px // 8, device=device, dtype=dtype)
            decode = partial(model.decode, latents, return_dict=False)
            found[images] = 1000 * _spread(decode, 5, clock)["median"] / images
        return found

    models = {"the KL VAE": parts.vae, "the tiny VAE": parts.preview_vae}
    for layout in (torch.contiguous_format, torch.channels_last):
        for name, model in models.items():
            if model is not None:
                model.to(memory_format=layout)
                ask(f"{name}, {layout}, ms an image", partial(decode_ms, model))


def packed(bench: Bench) -> None:
    """All variants in one process: the seed workload, and the throughput of a full queue."""
    note, ask = bench.questions.note, bench.questions.ask
    pipeline, clock = bench.load(bench.variants(), OPTIMISATIONS), Clock(bench.device)
    workload_ms = {}
    for variant in bench.variants():
        ours = Ours(pipeline, variant)
        try:
            note(f"`{variant.name}`: slots", ours.settings.cap)
            draw = partial(ours.draw, PROMPT, steps=bench.steps)

            def workload(draw: Callable[..., Any] = draw) -> None:
                for call in range(CALLS):
                    first = call * IMAGES_A_CALL
                    draw(range(first, first + IMAGES_A_CALL))

            found = ask(f"`{variant.name}`: seed workload, s", partial(_spread, workload, 3, clock))
            if found is not None:
                workload_ms[variant.name] = 1000 * found["median"]
            many = 32 if bench.cuda else 2
            ask(
                f"`{variant.name}`: {many} images at once, s",
                partial(_spread, partial(draw, range(many)), 2, clock),
            )
        finally:
            ours.close()
    if bench.cuda and len(workload_ms) == len(bench.variants()):
        note(SEED_WORKLOAD, workload_ms)
    if bench.cuda:
        note("peak memory, bytes", torch.cuda.max_memory_allocated())


_UNET, _DECODER, _TEXT = "UNet call, ms by images", "KL decoding, ms by images", "prompt, ms"
CHANGES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "as shipped": ({}, {_UNET, _DECODER, _TEXT}),
    "without conv_1x1_as_mm": ({"conv_1x1_as_mm": False}, {_UNET, _DECODER}),
    "powers of two recorded": ({"recorded_images": (1, 2, 4, 8, 16)}, {_UNET}),
    "without vae_decoder": ({"vae_decoder": False}, {_DECODER}),
    "without text_encoder": ({"text_encoder": False}, {_TEXT}),
    "torch's attention": ({"attention": "default"}, {_UNET}),
    "without compile": ({"compile": False}, {_UNET, _DECODER}),
    "without cuda_graphs": ({"cuda_graphs": False}, {_UNET, _DECODER}),
    "without channels_last": ({"channels_last": False}, {_UNET, _DECODER}),
    # The last, since its search may take longest.
    "with cudnn_benchmark": ({"cudnn_benchmark": True}, {_UNET, _DECODER}),
}
"""Changed switches, and the calls that they change; in the order of what is least known."""


def ablate(bench: Bench) -> None:
    """What each optimisation is worth: the reference's calls as shipped, and with one changed."""
    variant = bench.variants()[0]
    device, dtype = resolve_device(bench.device_name)
    parts = load_components([variant], bench.folder, device, dtype)[variant.name]
    tokens, side = parts.tokenizer.model_max_length, variant.default_size_px // 8
    clock, size = Clock(device), (side, side)
    most = 16 if bench.cuda else 2
    rows = unet_inputs(parts.unet, 2 * most, size, tokens)
    latents = torch.randn(2, 4, *size, device=device, dtype=dtype)
    ids = torch.zeros((1, tokens), dtype=torch.int64, device=device)

    def ms(call: Callable[..., object], *arguments: torch.Tensor) -> float:
        median: float = _spread(partial(call, *arguments), 10 if bench.cuda else 1, clock)["median"]
        return 1000 * median

    def prepared(call: Call, inputs: Inputs, sizes: Sequence[int]) -> Call:
        """On a CPU nothing has been recorded; so that its rehearsal has a recording."""
        if bench.cuda:
            return call
        return record_sizes(call, inputs, sizes, _run_again, clock.time_s)

    @torch.inference_mode()
    def measure(part: str, optimisations: Optimisations) -> dict[str, Any]:
        readiness = Readiness()
        if part == _UNET:
            unet = prepare_unet("unet", parts.unet, size, tokens, optimisations, readiness)
            unet = prepared(unet, rows, (2, 4))
            images = [count for count in DEFAULTS.recorded_images if count <= most]
            found = {str(count): ms(unet, *rows.first(2 * count)) for count in images}
        elif part == _DECODER:
            decode = prepare_decoder("vae", parts.vae, size, optimisations, readiness)
            decode = prepared(decode, Inputs(latents.clone()), (1, 2))
            found = {str(count): ms(decode, latents[:count]) for count in (1, 2)}
        else:
            encode = prepare_text_encoder(
                "text_encoder", parts.text_encoder, tokens, optimisations, readiness
            )
            found = {"1": ms(encode, ids)}
        return {**found, **({"left off": readiness.left_off} if readiness.left_off else {})}

    for name, (switches, calls) in CHANGES.items():
        optimisations = replace(OPTIMISATIONS, **switches)
        layout = torch.channels_last if optimisations.channels_last else torch.contiguous_format
        for model in (parts.unet, parts.vae):
            model.to(memory_format=layout)
        for part in sorted(calls):
            torch._dynamo.reset()
            # A thread of its own: torch keeps cuDNN's first choice for a shape, by thread.
            with ThreadPoolExecutor(1) as thread:
                answer = thread.submit(measure, part, optimisations)
                bench.questions.ask(f"{part}, {name}", answer.result)

    base, conditional = rows.first(2 * most)[0].chunk(2)
    scales = torch.full((most,), 7.5, device=device)

    def each() -> list[torch.Tensor]:
        pairs = zip(base.split(1), conditional.split(1), strict=True)
        return [first + 7.5 * (second - first) for first, second in pairs]

    bench.questions.note(
        f"guidance of {most} images, ms",
        {"in one": ms(guide, base, conditional, scales), "one by one": ms(each)},
    )


def gpu_tests(bench: Bench) -> None:
    """tests/gpu; on a CPU all of them are skipped."""

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "--noconftest", "-W", "default", "-q",
             "-p", "no:cacheprovider", "tests/gpu"],
            cwd=_ROOT, capture_output=True, text=True,
        )  # fmt: skip
        print(done.stdout, done.stderr)
        last = done.stdout.strip().splitlines()[-1]
        if done.returncode:
            raise RuntimeError(last)
        return last

    bench.questions.ask("tests/gpu", run)


def sanitizer(bench: Bench) -> None:
    """The engine's two threads; under torch's sanitizer a race between streams ends the process."""
    variant = MINIATURE.variants["original"]
    loaded = Pipeline.load([variant], WEIGHTS_DIR, bench.device_name, EAGER)
    ours = Ours(loaded, variant)
    try:
        for _ in range(3):
            ours.draw(PROMPT, range(5), 5)
    finally:
        ours.close()
    bench.questions.note("races between streams", "none" if bench.cuda else "not looked for")


STEPS: Mapping[str, Callable[[Bench], None]] = {
    "env": env,
    "smoke": smoke,
    "eager": eager,
    "full": full,
    "vae": vae,
    "packed": packed,
    "ablate": ablate,
    "tests": gpu_tests,
    "sanitizer": sanitizer,
}


def _readiness(pipeline: Pipeline) -> dict[str, Any]:
    return asdict(pipeline.readiness)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _parity(pipeline: Pipeline, variant: Variant, stock: Stock, steps: int) -> float:
    """Without the engine, whose start-up sweep takes longer than the pictures."""
    seeds = range(7, 9)
    trajectories, _ = pipeline.begin(variant.generation(PROMPT, seeds, steps))
    for _ in range(trajectories[0].total_steps):
        pipeline.step(trajectories)
    ours = [Image.fromarray(pixels) for pixels in pipeline.decode(trajectories)]
    return mean_difference(ours, stock.draw(PROMPT, seeds, steps))


def _twice(pipeline: Pipeline, variant: Variant) -> bool:
    ours = Ours(pipeline, variant)
    try:
        first, again = (ours.draw(PROMPT, range(5), 2) for _ in range(2))
    finally:
        ours.close()
    return all(
        np.array_equal(np.asarray(one), np.asarray(other))
        for one, other in zip(first, again, strict=True)
    )


def _stages(bench: Bench, ours: Ours, clock: Clock) -> None:
    bench.questions.note("slots", ours.settings.cap)
    calls_ms = {images: 1000 * seconds for images, seconds in ours.call_s.items()}
    bench.questions.note("UNet calls of the start-up sweep, ms by images", calls_ms)
    found = bench.questions.ask("stages", partial(stages, ours, bench.batches, 3, clock))
    if found is not None:
        steps = {images: 1000 * spread["median"] for images, spread in found["step_s"].items()}
        bench.questions.note("step, ms by images", steps)


def _spread(work: Callable[[], Any], repeats: int, clock: Clock) -> dict[str, Any]:
    """Seconds of a call, after one that warms up."""
    work()
    return asdict(Spread.of([clock.time_s(work) for _ in range(repeats)]))


def _kernels(ours: Ours, images: int) -> dict[str, str]:
    """The 25 kernels that take most of a step: milliseconds, and how often."""
    drawn, steps = ours.begin(PROMPT, range(images), 12), 5
    ours.pipeline.step(drawn)
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
        for _ in range(steps):
            ours.pipeline.step(drawn)
        torch.cuda.synchronize()
    most = sorted(profiler.key_averages(), key=lambda it: -it.self_device_time_total)[:25]
    return {
        it.key[:70]: f"{it.self_device_time_total / steps / 1000:.3f} ms, {it.count // steps}x"
        for it in most
    }


def _run_again(call: Callable[[], tuple[torch.Tensor, ...]]) -> Recording:
    """On a CPU nothing is recorded; a replay is the call again."""
    return Recording(call, call())
