"""The miniature's scenes: what is drawn, and what their captions say."""

import numpy as np
import pytest

from serve.miniature.training.drawing import FLOWERS, THINGS, VASES
from serve.miniature.training.scenes import (
    BACKGROUNDS,
    COLOURS,
    Caption,
    Flower,
    Scene,
    Thing,
    Vase,
    distinct,
    draw,
    parse_caption,
    random_caption,
    random_scene,
)


@pytest.mark.parametrize("thing", THINGS)
def test_every_thing_shows_in_the_middle_and_leaves_the_top_edge_free(thing):
    scene = Scene(Thing(thing, "red"), "white", jitter_seed=3)
    pixels = draw(scene)
    assert pixels.shape == (96, 96, 3)
    assert pixels.dtype == np.uint8
    red = np.abs(pixels.astype(int) - COLOURS["red"]).max(-1) < 12
    assert red[36:60, 36:60].mean() > 0.3
    assert (pixels[:4] > 240).all()


@pytest.mark.parametrize("shape", VASES)
@pytest.mark.parametrize("kind", FLOWERS)
def test_every_flower_stands_in_every_vase(shape, kind):
    empty = draw(Scene(Vase(shape, "blue", (), False), "white", 0))
    flowers = (Flower(kind, "red"),) * 3
    full = draw(Scene(Vase(shape, "blue", flowers, False), "white", 0))
    assert (empty[:40] > 240).all()
    assert (full[:50] < 240).any(-1).mean() > 0.1


def test_the_same_scene_always_gives_the_same_picture():
    scenes = [random_scene(np.random.default_rng(5)) for _ in range(2)]
    assert scenes[0] == scenes[1]
    assert np.array_equal(draw(scenes[0]), draw(scenes[1]))


def test_a_caption_never_contradicts_its_scene():
    rng = np.random.default_rng(0)
    for _ in range(3000):
        scene = random_scene(rng)
        caption = parse_caption(random_caption(scene, rng))
        subject = scene.subject
        name = subject.name if isinstance(subject, Thing) else "vase"
        assert caption.background in (None, scene.background)
        assert caption.colour in (None, subject.colour)
        assert caption.thing in (None, name)


def test_lots_cover_every_colour_of_every_thing_and_background():
    rng = np.random.default_rng(1)
    scenes = [random_scene(rng) for _ in range(6000)]
    things = {(s.subject.name, s.subject.colour) for s in scenes if isinstance(s.subject, Thing)}
    pairs = {(s.subject.colour, s.background) for s in scenes}
    assert len(things) == len(THINGS) * len(COLOURS)
    assert pairs == {(c, b) for c in COLOURS for b in BACKGROUNDS if distinct(c, b)}


def test_the_seed_prompt_is_among_the_captions():
    rng = np.random.default_rng(2)
    captions = [random_caption(random_scene(rng), rng) for _ in range(4000)]
    assert captions.count("a golden vase with different flowers") > 20


@pytest.mark.parametrize(
    ("caption", "colour", "thing", "background"),
    [
        pytest.param("a red star on a yellow background", "red", "star", "yellow", id="full"),
        pytest.param("an orange cat", "orange", "cat", None, id="no-background"),
        pytest.param("a golden vase with different flowers", "golden", "vase", None, id="vase"),
        pytest.param("a tree on a grey background", None, "tree", "grey", id="no-colour"),
        pytest.param("nothing we know", None, None, None, id="nothing"),
    ],
)
def test_captions_are_parsed(caption, colour, thing, background):
    assert parse_caption(caption) == Caption(colour, thing, background)
