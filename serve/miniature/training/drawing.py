"""How a scene's parts are drawn: Pillow polygons on a canvas of 96 units a side.

Everything is drawn four times too large and averaged down, which is what gives smooth edges.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIZE_PX = 96
_OVERSAMPLING = 4

Rgb = tuple[int, int, int]
Point = tuple[float, float]

LEAF_GREEN: Rgb = (52, 128, 56)
WINDOW_BLUE: Rgb = (200, 228, 245)
WOOD: Rgb = (170, 118, 70)
SEA_BLUE: Rgb = (58, 120, 178)
INK: Rgb = (38, 34, 40)


def shade(colour: Rgb, factor: float) -> Rgb:
    """Darken (`factor` < 1) or lighten towards white (`factor` > 1, 2 is white)."""
    if factor <= 1:
        red, green, blue = (round(c * factor) for c in colour)
    else:
        red, green, blue = (round(c + (255 - c) * (factor - 1)) for c in colour)
    return red, green, blue


class Canvas:
    """A picture being drawn, in units of its final pixels."""

    def __init__(self, background: Rgb) -> None:
        side = SIZE_PX * _OVERSAMPLING
        self._image = Image.new("RGB", (side, side), background)
        self._draw = ImageDraw.Draw(self._image)

    def polygon(self, points: Sequence[Point], colour: Rgb) -> None:
        """Fill a closed outline."""
        self._draw.polygon([(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in points], colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Rgb) -> None:
        """Fill an ellipse around (x, y)."""
        s = _OVERSAMPLING
        self._draw.ellipse(((x - rx) * s, (y - ry) * s, (x + rx) * s, (y + ry) * s), colour)

    def rectangle(self, left: float, top: float, right: float, bottom: float, colour: Rgb) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def line(self, points: Sequence[Point], width: float, colour: Rgb) -> None:
        """Draw a line with round ends."""
        s = _OVERSAMPLING
        scaled = [(x * s, y * s) for x, y in points]
        self._draw.line(scaled, colour, round(width * s), joint="curve")
        for x, y in (points[0], points[-1]):
            self.ellipse(x, y, width / 2, width / 2, colour)

    def pixels(self) -> NDArray[np.uint8]:
        """Return the finished picture: (96, 96, 3), uint8."""
        return np.asarray(self._image.reduce(_OVERSAMPLING), dtype=np.uint8)


def radial(x: float, y: float, radii: Callable[[float], float], points: int = 72) -> list[Point]:
    """Outline around (x, y) whose radius depends on the angle; angle 0 points upwards."""
    angles = [2 * math.pi * i / points for i in range(points)]
    return [(x + radii(a) * math.sin(a), y - radii(a) * math.cos(a)) for a in angles]


def _tips(x: float, y: float, count: int, outer: float, inner: float) -> list[Point]:
    """Outline of a star, the first tip upwards."""

    def tip_or_notch(angle: float) -> float:
        return inner if round(angle * count / math.pi) % 2 else outer

    return radial(x, y, tip_or_notch, points=2 * count)


# --- simple things: each covers the middle and leaves the top and side edges free ---------------


def _circle(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    canvas.ellipse(x, y, r, r, colour)


def _square(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    side = 0.88 * r
    canvas.rectangle(x - side, y - side, x + side, y + side, colour)


def _triangle(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    canvas.polygon([(x, y - r), (x + 1.1 * r, y + 0.85 * r), (x - 1.1 * r, y + 0.85 * r)], colour)


def _star(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    canvas.polygon(_tips(x, y + 2, 5, 1.2 * r, 0.55 * r), colour)


def _heart(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    points = []
    for i in range(72):
        t = 2 * math.pi * i / 72
        across = 16 * math.sin(t) ** 3
        up = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((x + across * r / 15, y - (up + 2) * r / 15))
    canvas.polygon(points, colour)


def _house(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    left, right, eaves, floor = x - 0.95 * r, x + 0.95 * r, y - 0.3 * r, y + r
    canvas.rectangle(left, eaves, right, floor, colour)
    roof = shade(colour, 0.6) if sum(colour) > 150 else (110, 100, 110)
    canvas.polygon([(x, y - 1.2 * r), (right + 5, eaves), (left - 5, eaves)], roof)
    canvas.rectangle(x - 0.2 * r, y + 0.4 * r, x + 0.2 * r, floor, (92, 62, 44))
    for side in (-0.58, 0.58):
        canvas.rectangle(x + side * r - 4, y - 2, x + side * r + 4, y + 7, WINDOW_BLUE)


def _cat(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    tail = [(x + 0.5 * r, y + 0.95 * r), (x + 1.05 * r, y + 0.8 * r), (x + 1.1 * r, y + 0.1 * r)]
    canvas.line(tail, 5, colour)
    canvas.ellipse(x, y + 0.55 * r, 0.72 * r, 0.62 * r, colour)
    head_y = y - 0.38 * r
    for side in (-1, 1):
        ear = [(x + side * 0.62 * r, head_y - 0.85 * r), (x + side * 0.1 * r, head_y - 0.3 * r)]
        canvas.polygon([*ear, (x + side * 0.62 * r, head_y)], colour)
    canvas.ellipse(x, head_y, 0.66 * r, 0.56 * r, colour)
    dark = sum(colour) < 330
    for side in (-1, 1):
        canvas.ellipse(
            x + side * 0.28 * r, head_y - 0.05 * r, 2.6, 3, (250, 232, 120) if dark else INK
        )
    canvas.polygon([(x - 2, head_y + 5), (x + 2, head_y + 5), (x, head_y + 8)], (240, 130, 150))


def _car(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    top = y - 0.75 * r
    cabin = [(x - 0.75 * r, y - 0.1 * r), (x - 0.5 * r, top), (x + 0.4 * r, top)]
    canvas.polygon([*cabin, (x + 0.8 * r, y - 0.1 * r)], colour)
    for near, far, lean in ((-0.06, -0.58, 0.16), (0.06, 0.62, -0.24)):
        glass = [(x + near * r, y - 0.14 * r), (x + near * r, top + 3)]
        canvas.polygon(
            [*glass, (x + (far + lean) * r, top + 3), (x + far * r, y - 0.14 * r)], WINDOW_BLUE
        )
    body = [(-1.3, 0.5), (-1.3, 0.05), (-1.1, -0.14), (1.0, -0.14), (1.3, 0.1), (1.3, 0.5)]
    canvas.polygon([(x + u * r, y + v * r) for u, v in body], colour)
    for side in (-0.72, 0.72):
        canvas.ellipse(x + side * r, y + 0.52 * r, 7.5, 7.5, INK)
        canvas.ellipse(x + side * r, y + 0.52 * r, 3.2, 3.2, (190, 190, 196))


def _boat(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    canvas.rectangle(0, 80, SIZE_PX, SIZE_PX, SEA_BLUE)
    canvas.line([(x, y - 1.1 * r), (x, y + 0.7 * r)], 2, (92, 62, 44))
    canvas.polygon([(x - 2, y - 1.1 * r), (x - 2, y + 0.5 * r), (x - r, y + 0.5 * r)], colour)
    canvas.polygon([(x + 2, y - 0.9 * r), (x + 2, y + 0.5 * r), (x + 0.8 * r, y + 0.5 * r)], colour)
    hull = [(-1.15, 0.62), (1.15, 0.62), (0.75, 1.25), (-0.75, 1.25)]
    canvas.polygon([(x + u * r, y + v * r) for u, v in hull], shade(colour, 0.8))


def _tree(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    canvas.rectangle(x - 4, y + 0.4 * r, x + 4, y + 1.35 * r, (112, 74, 46))
    for u, v, size in ((-0.5, 0.15, 0.6), (0.5, 0.15, 0.6), (0, -0.5, 0.65), (0, 0.1, 0.6)):
        canvas.ellipse(x + u * r, y + v * r, size * r, size * r, colour)


THINGS: dict[str, Callable[[Canvas, float, float, float, Rgb], None]] = {
    "circle": _circle, "square": _square, "triangle": _triangle, "star": _star, "heart": _heart,
    "house": _house, "cat": _cat, "car": _car, "boat": _boat, "tree": _tree,
}  # fmt: skip


# --- flowers, drawn around (x, y) with radius r --------------------------------------------------


def _rose(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    canvas.polygon(radial(x, y, lambda a: r * (0.94 + 0.06 * math.cos(5 * a))), colour)
    dark = shade(colour, 0.62)
    turns = [i / 40 for i in range(8, 41)]
    spiral = [
        (x + 0.72 * r * t * math.sin(9.5 * t), y - 0.72 * r * t * math.cos(9.5 * t)) for t in turns
    ]
    canvas.line(spiral, max(1.6, 0.17 * r), dark)


def _tulip(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    right = [(0.4, -0.4), (0.8, -0.95), (0.85, 0.2), (0.5, 0.85)]
    left = [(-u, v) for u, v in reversed(right)]
    cup = [(0, -1.1), *right, (0, 1.0), *left]
    canvas.polygon([(x + u * r, y + v * r) for u, v in cup], colour)
    dark = shade(colour, 0.75)
    petal = [(0, -1.1), (0.42, -0.1), (0.3, 0.7), (0, 0.95), (-0.3, 0.7), (-0.42, -0.1)]
    canvas.polygon([(x + u * r, y + v * r) for u, v in petal], dark)


def _daisy(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    for i in range(7):
        angle = 2 * math.pi * i / 7
        across, up = 0.66 * r * math.sin(angle), 0.66 * r * math.cos(angle)
        canvas.ellipse(x + across, y - up, 0.36 * r, 0.36 * r, colour)
    canvas.ellipse(x, y, 0.6 * r, 0.6 * r, colour)
    yellowish = colour[0] > 200 and 120 < colour[1] < 235 and colour[2] < 100
    canvas.ellipse(x, y, 0.36 * r, 0.36 * r, (150, 82, 30) if yellowish else (252, 206, 52))


def _sunflower(canvas: Canvas, x: float, y: float, r: float, colour: Rgb) -> None:
    canvas.polygon(_tips(x, y, 12, 1.15 * r, 0.72 * r), colour)
    canvas.ellipse(x, y, 0.56 * r, 0.56 * r, (92, 56, 30))


FLOWERS: dict[str, Callable[[Canvas, float, float, float, Rgb], None]] = {
    "rose": _rose, "tulip": _tulip, "daisy": _daisy, "sunflower": _sunflower,
}  # fmt: skip


# --- vases, standing on y = 90; a profile lists (height, half width) from the rim down -----------

VASES: dict[str, tuple[Point, ...]] = {
    "round": ((52, 8), (54, 9), (58, 6), (62, 9), (67, 15), (73, 18), (79, 17), (85, 12), (90, 9)),
    "tall": ((48, 13), (50, 13), (52, 12), (90, 8)),
    "slim": ((46, 8), (48, 8.5), (52, 5), (64, 5), (70, 9), (78, 12.5), (84, 12), (90, 9)),
    "wide": ((58, 19), (60, 19), (63, 17), (80, 15), (86, 12), (90, 8)),
}


def vase_rim(shape: str) -> float:
    """Height of the vase's rim, where the stems end."""
    return VASES[shape][0][0]


def vase(canvas: Canvas, x: float, shape: str, colour: Rgb) -> None:
    """A vase in its colour, lit from the left."""
    profile = VASES[shape]

    def band(left: float, right: float) -> list[Point]:
        return [(x + left * w, h) for h, w in profile] + [
            (x + right * w, h) for h, w in reversed(profile)
        ]

    canvas.polygon(band(-1, 1), colour)
    dark, light = (0.78, 1.3) if sum(colour) > 150 else (0.7, 1.2)
    canvas.polygon(band(0.5, 1), shade(colour, dark))
    canvas.polygon(band(-0.62, -0.3), shade(colour, light))
