"""Contact sheets: `python -m serve.miniature.training.contact_sheet [--weights DIR] [--out DIR]`.

`contact-sheet.png` shows all variants side by side for the same seeds, `training-scenes.png` scenes
of the training data, `edit.png` an edit before and after. All are quantised to a palette, which
suits flat colours.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ...catalogue import MINIATURE
from ...generation import Source
from .. import WEIGHTS_DIR
from .drawing import SIZE_PX
from .family import draw_pictures, load_family
from .scenes import draw, random_scene

PROMPTS = (
    "a golden vase with different flowers",
    "a blue vase with red roses",
    "a pink vase with yellow tulips",
    "a green vase with sunflowers",
    "a white vase with purple daisies on a blue background",
    "a red star on a yellow background",
    "a golden heart on a pink background",
    "an orange cat",
    "a black car on a green background",
    "a purple house on a cream background",
    "a white boat on a blue background",
    "a red circle on a white background",
)
SEEDS = (0, 1, 2)
_CAPTION_PX = 24
_GAP_PX = 12


def variants_sheet(weights: Path) -> Image.Image:
    """A row for each prompt, with every variant's pictures of the same seeds."""
    torch.set_num_threads(1)
    pipeline = load_family(weights)
    variants = list(pipeline.components)
    block = len(SEEDS) * SIZE_PX
    row = SIZE_PX + _CAPTION_PX
    width = len(variants) * (block + _GAP_PX) + _GAP_PX
    sheet = Image.new("RGB", (width, 2 * _CAPTION_PX + len(PROMPTS) * row + _GAP_PX), "white")
    pen = ImageDraw.Draw(sheet)
    font, bold = ImageFont.load_default(15), ImageFont.load_default(17)
    header = f"seeds {', '.join(map(str, SEEDS))} in each block, each variant's own defaults"
    pen.text((_GAP_PX, 3), header, "grey", font)
    for column, variant in enumerate(variants):
        left = _GAP_PX + column * (block + _GAP_PX)
        steps = MINIATURE.variants[variant].default_steps
        pen.text((left, _CAPTION_PX), f"{variant}, {steps} steps", "black", bold)
        prompts = [prompt for prompt in PROMPTS for _ in SEEDS]
        pictures = draw_pictures(pipeline, variant, prompts, list(SEEDS) * len(PROMPTS))
        for index, picture in enumerate(pictures):
            at = (left + index % len(SEEDS) * SIZE_PX, 2 * _CAPTION_PX + index // len(SEEDS) * row)
            sheet.paste(Image.fromarray(picture), (at[0], at[1] + _CAPTION_PX))
    for index, prompt in enumerate(PROMPTS):
        pen.text((_GAP_PX, 2 * _CAPTION_PX + index * row + 3), prompt, "black", font)
    return sheet


def edit_sheet(weights: Path) -> Image.Image:
    """A picture, the mask over its flowers, and three edits of it."""
    torch.set_num_threads(1)
    pipeline = load_family(weights)
    (source,) = draw_pictures(pipeline, "original", ["a blue vase with red roses"], [0])
    mask = np.zeros(source.shape[:2], np.uint8)
    mask[:58] = 255
    masked = source.copy()
    masked[mask > 0] = (source[mask > 0] + np.array([2 * 214, 2 * 51, 2 * 108])) // 3
    edit = Source(source.tobytes(), mask.tobytes(), 0.8)
    wishes = ["yellow tulips", "purple daisies", "sunflowers"]
    prompts = [f"a blue vase with {flowers}" for flowers in wishes]
    edited = draw_pictures(pipeline, "original", prompts, [0, 1, 2], source=edit)
    gap = np.full((SIZE_PX, _GAP_PX // 2, 3), 255, np.uint8)
    row = [part for picture in (source, masked, *edited) for part in (picture, gap)]
    return Image.fromarray(np.concatenate(row[:-1], axis=1))


def scenes_sheet(columns: int = 9, rows: int = 5) -> Image.Image:
    """Random scenes of the training data."""
    rng = np.random.default_rng(1)
    sheet = Image.new("RGB", (columns * SIZE_PX, rows * SIZE_PX))
    for index in range(columns * rows):
        at = (index % columns * SIZE_PX, index // columns * SIZE_PX)
        sheet.paste(Image.fromarray(draw(random_scene(rng))), at)
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write a small PNG."""
    sheet.quantize(256, kmeans=4, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Read the command line and make the sheets."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.miniature.training.contact_sheet", description=__doc__
    )
    parser.add_argument("--weights", type=Path, default=WEIGHTS_DIR)
    parser.add_argument("--out", type=Path, default=WEIGHTS_DIR.parent)
    args = parser.parse_args()
    save(variants_sheet(args.weights), args.out / "contact-sheet.png")
    save(scenes_sheet(), args.out / "training-scenes.png")
    save(edit_sheet(args.weights), args.out / "edit.png")


if __name__ == "__main__":
    main()
