"""Measures the weights against the model card's bars.

`python -m serve.miniature.training.measure [--weights DIR] [--json FILE] [--quick]` prints a table
and, last, a line of JSON. The exit status is 1 if a bar is missed. Pictures depend on the seeds
only; times are CPU seconds of one thread, with the variants interleaved.
"""

import argparse
import itertools
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...catalogue import MINIATURE
from ...generation import Source
from ...pipelines.pipeline import Pipeline
from .. import WEIGHTS_DIR
from . import judges
from .drawing import THINGS
from .family import denoise, draw_pictures, load_family
from .scenes import BACKGROUNDS, COLOURS, distinct, draw, random_scene, with_article

SEED_PROMPT = "a golden vase with different flowers"
_VASE_FROM_PX = 58
"""Flowers are above."""
_UNSEEN_SEED = 90_000
"""No training stage draws scenes with this seed."""
_COLOUR_BARS = {"distilled": 0.85, "distilled-tiny-vae": 0.85, "bk-sdm-tiny": 0.85}
_COLOUR_BAR = 0.90
"""Of the other variants."""
_UNDISTILLED = {"original-lcm": "original", "distilled-lcm": "distilled"}
"""The variants with the UNets that the few-step ones were distilled from."""


@dataclass(frozen=True)
class Finding:
    """One measured number; `bar` is None for a number that is only for comparison."""

    name: str
    value: float
    unit: str
    bar: float | None = None
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the number reaches its bar."""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def colour_prompts() -> list[str]:
    """60 prompts: every thing and every colour six times, backgrounds in turn."""
    prompts = []
    for turn in range(6):
        for index, thing in enumerate(THINGS):
            colour = list(COLOURS)[(index + turn) % len(COLOURS)]
            fits = [b for b in BACKGROUNDS if b != colour and distinct(colour, b)]
            background = with_article(fits[(3 * index + 4 * turn) % len(fits)])
            prompts.append(f"{with_article(colour)} {thing} on {background} background")
    return prompts


def colours_right(prompts: list[str], pictures: NDArray[np.uint8]) -> float:
    """Share of pictures whose thing and background both have the prompt's colours."""
    right = [bool(judges.shows(prompt, p)) for prompt, p in zip(prompts, pictures, strict=True)]
    return sum(right) / len(right)


def vases_right(pictures: NDArray[np.uint8]) -> int:
    """How many pictures show a golden vase with flowers of at least two colours."""
    return sum(bool(judges.shows(SEED_PROMPT, picture)) for picture in pictures)


def measure_colours(pipeline: Pipeline, quick: bool) -> list[Finding]:
    """The 60 prompts in each variant, two controls that must fail, and other guidance scales."""
    prompts = colour_prompts()[: 20 if quick else 60]
    seeds = list(range(len(prompts)))
    found = []
    for variant in pipeline.components:
        pictures = draw_pictures(pipeline, variant, prompts, seeds)
        share = colours_right(prompts, pictures)
        bar = _COLOUR_BARS.get(variant, _COLOUR_BAR)
        found.append(Finding(f"colours right, {variant}", share, "", bar))
        if variant == "original":
            # Controls, without which the numbers above would mean nothing: pictures against other
            # pictures' captions, and pictures of the same seeds without a caption.
            shuffled = colours_right(prompts[7:] + prompts[:7], pictures)
            blind = draw_pictures(pipeline, variant, [""] * len(prompts), seeds)
            found += [
                Finding("  captions shuffled", shuffled, "", 0.10, False),
                Finding("  captions withheld", colours_right(prompts, blind), "", 0.10, False),
            ]
            for scale in (1.0, 4.0, 7.5):
                pictures = draw_pictures(pipeline, variant, prompts, seeds, guidance_scale=scale)
                share = colours_right(prompts, pictures)
                name = f"  guidance {scale:g}" + (" (off)" if scale == 1 else "")
                found.append(Finding(name, share, ""))
    return found


def measure_vases(pipeline: Pipeline) -> list[Finding]:
    """The seed prompt with ten seeds in each variant."""
    return [
        Finding(
            f"golden vases, {variant}",
            vases_right(draw_pictures(pipeline, variant, [SEED_PROMPT] * 10, list(range(10)))),
            "of 10",
            8,
        )
        for variant in pipeline.components
    ]


def variety(pictures: NDArray[np.uint8]) -> float:
    """Mean CIE76 distance between pictures of different seeds, pixel by pixel.

    A UNet with too few steps draws the mean of many pictures: pale, and alike.
    """
    colours = [judges.lab(picture) for picture in pictures]
    pairs = itertools.combinations(colours, 2)
    return float(np.mean([np.linalg.norm(ours - theirs, axis=-1).mean() for ours, theirs in pairs]))


def measure_distillation(pipeline: Pipeline) -> list[Finding]:
    """The seed prompt's vases in few steps, beside the UNets without that distillation.

    Those get the colours right in few steps, too; what they lose is variety, and with one step the
    flowers.
    """

    def vases(variant: str, **changes: Any) -> NDArray[np.uint8]:
        return draw_pictures(pipeline, variant, [SEED_PROMPT] * 10, list(range(10)), **changes)

    most = variety(vases("original"))
    lcm = {"scheduler": "lcm", "guidance_scale": 1.0}
    found = []
    for variant, undistilled in _UNDISTILLED.items():
        varied = variety(vases(variant)) / most
        golden = vases_right(vases(variant, steps=1))
        control_varied = variety(vases(undistilled, steps=4, **lcm)) / most
        control_golden = vases_right(vases(undistilled, steps=1, **lcm))
        found += [
            Finding(f"variety of vases, {variant}", varied, "x", 0.85),
            Finding(f"  {undistilled} in as many steps", control_varied, "x", 0.80, False),
            Finding("  golden vases in one step", golden, "of 10", 8),
            Finding(f"  {undistilled} in one step", control_golden, "of 10", 7, False),
        ]
    return found


def measure_edits(pipeline: Pipeline) -> list[Finding]:
    """Red roses made yellow tulips, with a mask over them, and without one at three strengths.

    A mask keeps the vase's own pixels, or the edit counts as wrong.
    """
    (source,) = draw_pictures(pipeline, "original", ["a blue vase with red roses"], [0])
    flowers = np.zeros(source.shape[:2], np.uint8)
    flowers[:_VASE_FROM_PX] = 255
    wish = ["a blue vase with yellow tulips"] * 10

    def edited(variant: str, mask: bytes | None, strength: float) -> NDArray[np.uint8]:
        edit = Source(source.tobytes(), mask, strength)
        return draw_pictures(pipeline, variant, wish, list(range(10)), source=edit)

    found = []
    for variant in pipeline.components:
        drawn = edited(variant, flowers.tobytes(), 0.8)
        right = sum(
            judges.flower_colours(picture) == {"yellow"}
            and bool((picture[_VASE_FROM_PX:] == source[_VASE_FROM_PX:]).all())
            for picture in drawn
        )
        bar = 8 if variant in MINIATURE.default_variants else None
        found.append(Finding(f"flowers yellow, {variant}", right, "of 10", bar))
    for strength in (0.3, 0.6, 1.0):
        drawn = edited("original", None, strength)
        like = float(-10 * np.log10(((drawn.astype(float) - source) ** 2).mean() / 255**2))
        found.append(Finding(f"  PSNR to the picture at strength {strength:g}", like, "dB"))
    return found


def measure_decoders(pipeline: Pipeline, quick: bool) -> list[Finding]:
    """PSNR of the tiny decoder against the KL decoder on identical latents of the student."""
    # `Any`: each encodes to a class of its own.
    kl: Any = pipeline.components["distilled"].vae
    tiny: Any = pipeline.components["distilled-tiny-vae"].vae
    prompts = [*colour_prompts()[: 8 if quick else 40], *[SEED_PROMPT] * (2 if quick else 10)]
    with torch.inference_mode():
        finished = denoise(pipeline, "distilled", prompts, list(range(len(prompts))))
        latents = torch.cat([trajectory.latents for trajectory in finished])
        theirs = kl.decode(latents / kl.config.scaling_factor).sample.clamp(-1, 1)
        ours = tiny.decode(latents / tiny.config.scaling_factor).sample.clamp(-1, 1)
        rng = np.random.default_rng(_UNSEEN_SEED)
        scenes = np.stack([draw(random_scene(rng)) for _ in range(16 if quick else 64)])
        truth = torch.from_numpy(scenes).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        encoded = kl.encode(truth).latent_dist.mean
        kl_trip = kl.decode(encoded).sample.clamp(-1, 1)
        same = encoded * kl.config.scaling_factor / tiny.config.scaling_factor
        tiny_of_kl = tiny.decode(same).sample.clamp(-1, 1)
        tiny_trip = tiny.decode(tiny.encode(truth).latents).sample.clamp(-1, 1)
    return [
        Finding("PSNR tiny against KL decoder", _psnr(ours, theirs), "dB", 31),
        Finding("  of unseen scenes", _psnr(tiny_of_kl, kl_trip), "dB"),
        Finding("  KL round trip, unseen scenes", _psnr(kl_trip, truth), "dB"),
        Finding("  tiny round trip, unseen scenes", _psnr(tiny_trip, truth), "dB"),
    ]


def _psnr(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Peak signal to noise of pictures in [-1, 1]."""
    return float(-10 * ((ours - theirs) / 2).square().mean().log10())


def measure_times(pipeline: Pipeline, rounds: int) -> list[Finding]:
    """CPU seconds of one picture, one thread, variants in turn."""
    times: dict[str, list[float]] = {variant: [] for variant in pipeline.components}
    for turn in range(rounds + 1):
        for variant in times:
            started = time.process_time()
            draw_pictures(pipeline, variant, [SEED_PROMPT], [turn])
            if turn > 0:  # the first warms up
                times[variant].append(time.process_time() - started)
    found = []
    for variant, seconds in times.items():
        bar = 2.0 if variant == "original" else None
        found.append(
            Finding(f"CPU time, {variant}", statistics.median(seconds), "s", bar, at_least=False)
        )
        if variant == "original":
            continue
        ratios = [a / b for a, b in zip(seconds, times["original"], strict=True)]
        name = f"  against original ({min(ratios):.2f} to {max(ratios):.2f})"
        bar = 0.25 if MINIATURE.variants[variant].few_step else 0.75
        found.append(Finding(name, statistics.median(ratios), "x", bar, at_least=False))
    return found


def measure(weights: Path, quick: bool = False) -> list[Finding]:
    """Everything, on one thread."""
    torch.set_num_threads(1)
    pipeline = load_family(weights)
    return [
        *measure_colours(pipeline, quick),
        *measure_vases(pipeline),
        *measure_distillation(pipeline),
        *measure_edits(pipeline),
        *measure_decoders(pipeline, quick),
        *measure_times(pipeline, rounds=3 if quick else 9),
    ]


def main() -> None:
    """Read the command line, measure, print, and exit with 1 if a bar is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.miniature.training.measure", description=__doc__
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR)
    parser.add_argument("--json", type=Path, help="also write the JSON line to this file")
    parser.add_argument("--quick", action="store_true", help="fewer prompts and rounds")
    args = parser.parse_args()
    found = measure(args.weights, args.quick)
    for finding in found:
        sign = ">=" if finding.at_least else "<="
        bar = "" if finding.bar is None else f"{sign} {finding.bar:.4g}"
        mark = "" if finding.met else "MISSED"
        print(f"{finding.name:<44}{finding.value:>9.3f} {finding.unit:<6}{bar:<10}{mark}")
    line = json.dumps(
        {
            "findings": [asdict(finding) | {"met": finding.met} for finding in found],
        }
    )
    if args.json:
        args.json.write_text(line + "\n")
    print(line)
    sys.exit(0 if all(finding.met for finding in found) else 1)


if __name__ == "__main__":
    main()
