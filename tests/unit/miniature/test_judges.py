"""The miniature's judges: right on drawn scenes, at chance on other scenes' captions."""

import numpy as np
import pytest

from serve.miniature.training import judges
from serve.miniature.training.measure import (
    colour_prompts,
    colours_right,
    variety,
    vases_right,
)
from serve.miniature.training.scenes import (
    Flower,
    Scene,
    Thing,
    Vase,
    draw,
    parse_caption,
    random_scene,
)


@pytest.fixture(scope="module")
def drawn_prompts():
    pictures = []
    for index, prompt in enumerate(colour_prompts()):
        caption = parse_caption(prompt)
        thing = Thing(caption.thing, caption.colour)
        pictures.append(draw(Scene(thing, caption.background, index)))
    return np.stack(pictures)


def vases(scenes, seed):
    """The vases among random scenes."""
    rng = np.random.default_rng(seed)
    drawn = [random_scene(rng) for _ in range(scenes)]
    return [scene for scene in drawn if isinstance(scene.subject, Vase)]


def flower_colours(scene):
    return {flower.colour for flower in scene.subject.flowers}


def test_sixty_prompts_ask_for_sixty_different_things():
    prompts = colour_prompts()
    assert len(set(prompts)) == 60
    assert {parse_caption(p).colour for p in prompts} == set(judges.COLOURS)


def test_drawn_prompts_are_judged_right(drawn_prompts):
    assert colours_right(colour_prompts(), drawn_prompts) == 1.0


def test_shuffled_captions_are_judged_about_chance(drawn_prompts):
    prompts = colour_prompts()
    assert colours_right(prompts[7:] + prompts[:7], drawn_prompts) <= 0.1


def test_noise_is_not_judged_right():
    noise = np.random.default_rng(0).integers(0, 256, (60, 96, 96, 3), dtype=np.uint8)
    assert colours_right(colour_prompts(), noise) <= 0.05


def test_colours_of_random_scenes_are_read():
    rng = np.random.default_rng(3)
    for _ in range(400):
        scene = random_scene(rng)
        pixels = draw(scene)
        assert judges.background_colour(pixels) == scene.background
        if isinstance(scene.subject, Thing):
            assert judges.thing_colour(pixels) == scene.subject.colour
        else:
            assert judges.vase_colour(pixels) == scene.subject.colour


def test_an_empty_picture_shows_no_thing():
    assert judges.thing_colour(np.full((96, 96, 3), 200, np.uint8)) is None


def test_bunches_of_one_colour_and_of_several_are_told_apart():
    agreed = [
        (len(flower_colours(scene)) >= 2) == (len(judges.flower_colours(draw(scene))) >= 2)
        for scene in vases(330, seed=4)
    ]
    assert len(agreed) > 130
    assert np.mean(agreed) >= 0.95


@pytest.mark.parametrize(
    ("prompt", "right"),
    [
        ("a red vase with yellow tulips", True),
        ("a red vase with a yellow tulip on a blue background", True),
        ("a red vase with yellow tulips on a pink background", False),
        ("a green vase with yellow tulips", False),
        ("a red vase with purple tulips", False),
        ("a red vase with sunflowers", True),
        ("a red vase with different flowers", False),
        ("an empty red vase", False),
        ("a red vase with tulips", None),
        ("a vase with yellow tulips", None),
        ("a blue car on a blue background", False),
    ],
)
def test_a_prompt_is_judged_by_the_colours_that_it_names(prompt, right):
    bunch = Vase("round", "red", (Flower("tulip", "yellow"),) * 3, on_table=False)
    assert judges.shows(prompt, draw(Scene(bunch, "blue", 1))) is right


def test_only_golden_vases_with_mixed_flowers_count():
    wrong = [
        draw(scene)
        for scene in vases(300, seed=6)
        if scene.subject.colour != "golden" or len(flower_colours(scene)) < 2
    ]
    assert len(wrong) > 90
    assert vases_right(np.stack(wrong)) <= 2


def test_pictures_that_fade_towards_their_mean_lose_variety():
    pictures = np.stack([draw(scene) for scene in vases(40, seed=8)[:6]]).astype(float)
    faded = 0.7 * pictures + 0.3 * pictures.mean(axis=0)
    assert variety(pictures[:1].repeat(3, axis=0)) == 0
    assert 0.5 < variety(faded) / variety(pictures) < 0.8
