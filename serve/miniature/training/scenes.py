"""The miniature's training data: seeded scenes, each with a picture and captions.

A scene is either a vase of flowers or a simple thing in a colour, on a background colour.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .drawing import FLOWERS, LEAF_GREEN, SIZE_PX, THINGS, VASES, WOOD, Canvas, Rgb, vase, vase_rim

COLOURS: dict[str, Rgb] = {
    "red": (214, 34, 40),
    "orange": (246, 126, 30),
    "yellow": (250, 214, 48),
    "green": (44, 148, 70),
    "blue": (40, 84, 204),
    "purple": (128, 52, 156),
    "pink": (242, 124, 178),
    "black": (30, 28, 34),
    "white": (250, 250, 250),
    "golden": (204, 150, 34),
}
BACKGROUNDS: dict[str, Rgb] = {
    "white": (252, 252, 252),
    "cream": (248, 234, 206),
    "yellow": (252, 240, 150),
    "green": (178, 224, 184),
    "blue": (122, 176, 238),
    "pink": (252, 204, 216),
    "purple": (204, 184, 236),
    "grey": (190, 192, 196),
    "black": (24, 22, 28),
}
FLOWER_COLOURS = ("red", "orange", "yellow", "blue", "purple", "pink", "white")
PLURALS = {"rose": "roses", "tulip": "tulips", "daisy": "daisies", "sunflower": "sunflowers"}

_ALIKE = {("white", "white"), ("white", "cream"), ("black", "black"), ("yellow", "yellow")}
"""Thing and background colours that look alike, and are never drawn together."""


def distinct(colour: str, background: str) -> bool:
    """Whether a thing in `colour` can be told from the background."""
    return (colour, background) not in _ALIKE


@dataclass(frozen=True)
class Thing:
    """A simple thing of a single colour."""

    name: str
    colour: str


@dataclass(frozen=True)
class Flower:
    """A flower of a bunch."""

    kind: str
    colour: str


@dataclass(frozen=True)
class Vase:
    """A vase, empty or with up to five flowers."""

    shape: str
    colour: str
    flowers: tuple[Flower, ...]
    on_table: bool


@dataclass(frozen=True)
class Scene:
    """What a picture shows, and the seed of the small variations in its drawing."""

    subject: Thing | Vase
    background: str
    jitter_seed: int


def _pick(rng: np.random.Generator, names: Iterable[str]) -> str:
    choices = list(names)
    return choices[int(rng.integers(len(choices)))]


def random_scene(rng: np.random.Generator) -> Scene:
    """A random scene: 55 % simple things, 45 % vases."""
    subject: Thing | Vase
    if rng.random() < 0.55:
        subject = Thing(_pick(rng, THINGS), _pick(rng, COLOURS))
    else:
        # Golden vases, in the README's example, are a third of the vases.
        colour = "golden" if rng.random() < 0.25 else _pick(rng, COLOURS)
        subject = Vase(_pick(rng, VASES), colour, _random_bunch(rng), bool(rng.random() < 0.35))
    background = _pick(rng, [b for b in BACKGROUNDS if distinct(subject.colour, b)])
    return Scene(subject, background, int(rng.integers(2**31)))


def _random_flower(rng: np.random.Generator, kind: str = "", colour: str = "") -> Flower:
    kind = kind or _pick(rng, FLOWERS)
    # Sunflowers are yellow whatever the bunch's colour.
    return Flower(kind, "yellow" if kind == "sunflower" else colour or _pick(rng, FLOWER_COLOURS))


def _random_bunch(rng: np.random.Generator) -> tuple[Flower, ...]:
    lot = rng.random()
    if lot < 0.07:
        return ()
    if lot < 0.17:
        return (_random_flower(rng),)
    count = 3 if rng.random() < 0.5 else 5
    kind, colour = _pick(rng, FLOWERS), _pick(rng, FLOWER_COLOURS)
    if lot < 0.50:  # all alike: "red roses"
        return (_random_flower(rng, kind, colour),) * count
    if lot < 0.62:  # one kind in many colours: "colourful tulips"
        kind = _pick(rng, ("rose", "tulip", "daisy"))
        colours = rng.permutation(FLOWER_COLOURS)[:count]
        return tuple(Flower(kind, str(c)) for c in colours)
    colours = rng.permutation(FLOWER_COLOURS)[:count]
    kinds = [*rng.permutation(list(FLOWERS)), *rng.permutation(list(FLOWERS))][:count]
    return tuple(_random_flower(rng, str(k), str(c)) for k, c in zip(kinds, colours, strict=True))


# --- the picture ---------------------------------------------------------------------------------

_BUNCHES: dict[int, tuple[tuple[float, float, float], ...]] = {
    0: (),
    1: ((0, -24, 17),),
    3: ((-25, -11, 13.5), (0, -29, 13.5), (25, -11, 13.5)),
    5: ((-33, -4, 11), (-19, -24, 11), (0, -36, 11), (19, -24, 11), (33, -4, 11)),
}
"""By number of flowers: each one's offset from the middle of the rim, and its radius."""


def draw(scene: Scene) -> NDArray[np.uint8]:
    """Draw a scene, deterministically: (96, 96, 3), uint8."""
    rng = np.random.default_rng(scene.jitter_seed)
    canvas = Canvas(_jittered(rng, BACKGROUNDS[scene.background], 4))
    middle = SIZE_PX / 2
    subject = scene.subject
    colour = _jittered(rng, COLOURS[subject.colour], 5)
    if isinstance(subject, Thing):
        x, y = middle + rng.uniform(-4, 4, 2)
        THINGS[subject.name](canvas, x, y, rng.uniform(24, 30), colour)
        return canvas.pixels()
    if subject.on_table:
        canvas.rectangle(0, rng.uniform(76, 80), SIZE_PX, SIZE_PX, _jittered(rng, WOOD, 5))
    x = middle + rng.uniform(-3, 3)
    rim = vase_rim(subject.shape)
    # Bunches keep the same distance from the top, whatever the vase's height.
    root = max(rim, 48.0) + 1
    places = [
        (x + dx + rng.uniform(-1.5, 1.5), root + dy + rng.uniform(-1.5, 1.5), r)
        for dx, dy, r in _BUNCHES[len(subject.flowers)]
    ]
    for fx, fy, _ in places:
        canvas.line([(x, rim + 3), (fx, fy)], 1.8, LEAF_GREEN)
    vase(canvas, x, subject.shape, colour)
    for (fx, fy, r), flower in zip(places, subject.flowers, strict=True):
        FLOWERS[flower.kind](canvas, fx, fy, r, COLOURS[flower.colour])
    return canvas.pixels()


def _jittered(rng: np.random.Generator, colour: Rgb, reach: int) -> Rgb:
    moved = np.clip(np.array(colour) + rng.integers(-reach, reach + 1, 3), 0, 255)
    return int(moved[0]), int(moved[1]), int(moved[2])


# --- captions ------------------------------------------------------------------------------------


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def random_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A random caption of a scene; some captions omit a colour."""
    subject, background = scene.subject, scene.background
    if isinstance(subject, Thing):
        thing = with_article(f"{subject.colour} {subject.name}")
        return _weighted(rng, (
            (10, f"{thing} on {with_article(background)} background"),
            (3, thing),
            (1, f"a picture of {thing} on {with_article(background)} background"),
            (1, f"{subject.colour} {subject.name}, {background} background"),
            (1, f"a drawing of {thing}"),
            (1, f"{with_article(subject.name)} on {with_article(background)} background"),
            (1, f"{subject.name}"),
        ))  # fmt: skip
    flowers = _weighted(rng, bunch_phrases(subject.flowers))
    plain = with_article(f"{subject.colour} vase")
    shaped = with_article(f"{subject.shape} {subject.colour} vase")
    ending = f" on {with_article(background)} background"
    if not subject.flowers:
        empty = with_article(f"empty {subject.colour} vase")
        return _weighted(rng, ((2, empty), (2, empty + ending)))
    table = [(2.0, f"{plain} with {flowers} on a table")] if subject.on_table else []
    return _weighted(rng, (
        (7, f"{plain} with {flowers}"),
        (5, f"{plain} with {flowers}{ending}"),
        (2, f"{shaped} with {flowers}"),
        (1, f"{flowers} in {plain}"),
        (0.7, f"a picture of {plain} with {flowers}"),
        (0.7, f"a vase with {flowers}"),
        (0.3, f"{flowers}"),
        *table,
    ))  # fmt: skip


def bunch_phrases(flowers: Sequence[Flower]) -> tuple[tuple[float, str], ...]:
    """Phrases for a bunch, each with its weight."""
    if not flowers:
        return ((1, "no flowers"),)
    kinds = {f.kind for f in flowers}
    colours = {f.colour for f in flowers}
    kind, colour = flowers[0].kind, flowers[0].colour
    if len(flowers) == 1:
        return ((3, with_article(f"{colour} {kind}")), (1, with_article(f"{colour} flower")),
                (1, with_article(kind)))  # fmt: skip
    number = {3: "three", 5: "five"}[len(flowers)]
    if len(kinds) == 1 and len(colours) == 1:
        if kind == "sunflower":
            return ((4, "sunflowers"), (1, f"{number} sunflowers"), (1, "yellow sunflowers"))
        return ((5, f"{colour} {PLURALS[kind]}"), (1, f"{number} {colour} {PLURALS[kind]}"),
                (1, f"{colour} flowers"), (0.5, PLURALS[kind]))  # fmt: skip
    if len(kinds) == 1:
        return ((3, f"colourful {PLURALS[kind]}"), (2, f"{PLURALS[kind]} of different colours"))
    return ((8, "different flowers"), (1, "flowers"), (1, "many flowers"),
            (1, "colourful flowers"), (1, f"{number} different flowers"))  # fmt: skip


def _weighted(rng: np.random.Generator, choices: Sequence[tuple[float, str]]) -> str:
    mark = rng.random() * math.fsum(weight for weight, _ in choices)
    for weight, text in choices:
        mark -= weight
        if mark < 0:
            return text
    return choices[-1][1]


_THING = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(THINGS)})\b")
_VASE = re.compile(rf"\b({'|'.join(COLOURS)}) vase\b")
_BACKGROUND = re.compile(rf"\b({'|'.join(BACKGROUNDS)}) background\b")


@dataclass(frozen=True)
class Caption:
    """The meaning of a caption; None for what it omits."""

    colour: str | None
    thing: str | None
    background: str | None


def parse_caption(caption: str) -> Caption:
    """Read colour, thing (or "vase") and background out of a caption."""
    background = _BACKGROUND.search(caption)
    named = background[1] if background else None
    if thing := _THING.search(caption):
        return Caption(thing[1], thing[2], named)
    if vase_match := _VASE.search(caption):
        return Caption(vase_match[1], "vase", named)
    uncoloured = next((t for t in (*THINGS, "vase") if re.search(rf"\b{t}\b", caption)), None)
    return Caption(None, uncoloured, named)
