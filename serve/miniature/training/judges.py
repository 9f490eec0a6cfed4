"""Which colours a picture shows, by rules on pixels that are tested on drawn scenes.

The rules rely on the scenes' layout: the background shows along the top and the upper sides, a
simple thing covers the middle, and a vase stands below its flowers.
"""

import re
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .drawing import LEAF_GREEN, WOOD, Rgb
from .scenes import BACKGROUNDS, COLOURS, FLOWER_COLOURS, PLURALS, parse_caption

Pixels = NDArray[np.uint8]
Lab = NDArray[np.float64]

_UNLIKE_BACKGROUND = 12.0
"""CIE76 distance from which a pixel isn't background (2 is just noticeable)."""
_SUNFLOWER_HEART: Rgb = (92, 56, 30)
_WINDOW_PX = 16
_WINDOW_STRIDE_PX = 4
_FLOWERS = re.compile(rf"\b({'|'.join(FLOWER_COLOURS)}) (flower|{'|'.join([*PLURALS, 'daisies'])})")


def lab(pixels: NDArray[np.uint8] | NDArray[np.float64]) -> Lab:
    """SRGB (..., 3), 0 to 255, to CIELAB under D65."""
    unit = np.asarray(pixels, dtype=np.float64) / 255
    linear = np.where(unit <= 0.04045, unit / 12.92, ((unit + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
         [0.0193339, 0.1191920, 0.9503041]]
    )  # fmt: skip
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack(
        [116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1
    )


def _nearest(colours: Lab, table: Mapping[str, Rgb]) -> NDArray[np.intp]:
    """Index in `table` of the colour nearest to each of `colours`, (..., 3) to (...)."""
    named = lab(np.array(list(table.values()), dtype=np.float64))
    distance = np.linalg.norm(colours[..., None, :] - named, axis=-1)
    return np.asarray(distance.argmin(-1), dtype=np.intp)


def _background(pixels: Pixels) -> Lab:
    upper = round(0.6 * pixels.shape[0])
    edges = [pixels[:6], pixels[:upper, :6], pixels[:upper, -6:]]
    return lab(np.median(np.concatenate([e.reshape(-1, 3) for e in edges]), axis=0))


def background_colour(pixels: Pixels) -> str:
    """Name of the background's colour of a (96, 96, 3) picture."""
    return list(BACKGROUNDS)[int(_nearest(_background(pixels), BACKGROUNDS))]


def thing_colour(pixels: Pixels) -> str | None:
    """Name of the most frequent colour in the picture's middle; None for background only."""
    colours = lab(pixels[30:68, 30:66]).reshape(-1, 3)
    apart = np.linalg.norm(colours - _background(pixels), axis=-1) > _UNLIKE_BACKGROUND
    if apart.mean() < 0.1:
        return None
    return _most_frequent(colours[apart])


def vase_colour(pixels: Pixels) -> str:
    """Name of the most frequent colour where a vase's belly is."""
    return _most_frequent(lab(pixels[66:86, 40:56]).reshape(-1, 3))


def _most_frequent(colours: Lab) -> str:
    return list(COLOURS)[int(np.bincount(_nearest(colours, COLOURS)).argmax())]


def flower_colours(pixels: Pixels) -> set[str]:
    """Names of the colours of the flowers above a vase.

    A colour counts if it is the most frequent in a window about as large as a flower, so that a
    daisy's heart doesn't count as a second colour.
    """
    colours = lab(pixels[:58])
    table = {name: COLOURS[name] for name in FLOWER_COLOURS}
    # Not flowers, but in the same place: stems and the table's wood.
    others = {"leaf": LEAF_GREEN, "wood": WOOD, "brown": _SUNFLOWER_HEART}
    kinds = _nearest(colours, table | others)
    # Only sunflowers have a brown heart, and a sunflower is yellow.
    kinds[kinds == len(table) + 2] = FLOWER_COLOURS.index("yellow")
    apart = np.linalg.norm(colours - _background(pixels), axis=-1) > _UNLIKE_BACKGROUND
    apart[44:, 30:66] = False  # the vase's rim
    found: dict[str, int] = {}
    height, width = kinds.shape
    for top in range(0, height - _WINDOW_PX + 1, _WINDOW_STRIDE_PX):
        for left in range(0, width - _WINDOW_PX + 1, _WINDOW_STRIDE_PX):
            window = np.s_[top : top + _WINDOW_PX, left : left + _WINDOW_PX]
            seen = kinds[window][apart[window]]
            votes = np.bincount(seen[seen < len(table)], minlength=len(table))
            if votes.sum() >= 0.35 * _WINDOW_PX**2:
                name = FLOWER_COLOURS[int(votes.argmax())]
                found[name] = found.get(name, 0) + 1
    return {name for name, windows in found.items() if windows >= 2}


def shows(prompt: str, pixels: Pixels) -> bool | None:
    """Whether a (96, 96, 3) picture has the colours that its prompt names.

    Those are the thing's, or the vase's and its flowers', and the background's where it is named.
    None where the prompt names no coloured thing, or doesn't say which colours a vase's flowers
    have.
    """
    wish = parse_caption(prompt)
    if wish.colour is None:
        return None
    if wish.background is not None and background_colour(pixels) != wish.background:
        return False
    if wish.thing != "vase":
        return thing_colour(pixels) == wish.colour
    flowers = _flowers_right(prompt, flower_colours(pixels))
    return None if flowers is None else flowers and vase_colour(pixels) == wish.colour


def _flowers_right(prompt: str, seen: set[str]) -> bool | None:
    if "empty" in prompt:
        return not seen
    if "different" in prompt or "colourful" in prompt:
        return len(seen) >= 2
    if named := _FLOWERS.search(prompt):
        return seen == {named[1]}
    # Sunflowers are yellow, whatever else is said.
    return seen == {"yellow"} if "sunflower" in prompt else None
