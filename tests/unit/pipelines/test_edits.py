"""An edit of ours is that of diffusers' pipelines, on the shipped weights."""

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from serve.catalogue import MINIATURE
from serve.generation import Generation, Preparation, SchedulerName, Source
from serve.miniature import WEIGHTS_DIR
from serve.miniature.training.scenes import draw as draw_scene
from serve.miniature.training.scenes import random_scene
from serve.pipelines.pipeline import Pipeline
from serve.variants import Variant
from tests.fakes import generation
from tests.pictures import TOLERANCE, difference, draw, stock_edit, unfinished

SCENE = draw_scene(random_scene(np.random.default_rng(5)))[:80]
MASK = np.zeros((80, 96), np.uint8)
MASK[:50, 20:70] = 255


@functools.cache
def packed() -> Pipeline:
    torch.set_num_threads(1)
    return Pipeline.load(list(MINIATURE.variants.values()), WEIGHTS_DIR, "cpu")


def edit(mask: bool = False, strength: float = 0.8, **changes: Any) -> Generation:
    source = Source(SCENE.tobytes(), MASK.tobytes() if mask else None, strength)
    size = {"width_px": 96, "height_px": 80, "default_size_px": 96}
    return generation(**{**size, "seeds": (2023,), "source": source, **changes})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask", [False, True], ids=["image-to-image", "inpainting"])
@pytest.mark.parametrize("variant", MINIATURE.default_variants)
@pytest.mark.parametrize(
    ("scheduler", "steps", "strength", "guidance_scale"),
    [
        pytest.param("pndm", 10, 0.8, 4.0, id="pndm"),
        pytest.param("pndm", 5, 1.0, 4.0, id="pndm-from-noise"),
        pytest.param("pndm", 10, 0.1, 4.0, id="pndm-one-step"),
        pytest.param("ddim", 6, 0.5, 3.0, id="ddim"),
        pytest.param("dpm++", 6, 0.8, 3.0, id="dpm++"),
        pytest.param("dpm++-karras", 6, 0.6, 3.0, id="dpm++-karras"),
        pytest.param("euler", 6, 0.7, 3.0, id="euler"),
        pytest.param("euler", 4, 1.0, 3.0, id="euler-from-noise"),
        pytest.param("euler-a", 6, 0.6, 3.0, id="euler-a"),
        pytest.param("unipc", 6, 0.6, 3.0, id="unipc"),
        pytest.param("lcm", 4, 0.5, 1.0, id="lcm"),
        pytest.param("ddim", 5, 0.7, 1.0, id="without-guidance"),
    ],
)
def test_the_edit_is_that_of_diffusers_pipelines(
    variant: str,
    mask: bool,
    scheduler: SchedulerName,
    steps: int,
    strength: float,
    guidance_scale: float,
) -> None:
    asked = edit(
        mask,
        strength,
        variant=variant,
        prompt="a golden vase with different flowers",
        scheduler=scheduler,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
    )
    expected = stock_edit(packed(), asked)
    if mask:
        # diffusers leaves the source as the VAE has it; here its own pixels are put back.
        expected[:, MASK == 0] = SCENE[MASK == 0]
    assert expected.std() > 5
    assert difference(draw(packed(), asked), expected) <= TOLERANCE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mask", [False, True], ids=["image-to-image", "inpainting"])
@pytest.mark.parametrize("variant", [one for one in MINIATURE.variants.values() if one.few_step])
def test_a_few_step_edit_is_that_of_diffusers_pipelines(variant: Variant, mask: bool) -> None:
    asked = replace(
        edit(mask),
        **{
            name: getattr(variant.generation("a red star", [3]), name)
            for name in ("variant", "prompt", "num_inference_steps", "guidance_scale", "scheduler")
        },
    )
    expected = stock_edit(packed(), asked)
    if mask:
        expected[:, MASK == 0] = SCENE[MASK == 0]
    assert difference(draw(packed(), asked), expected) <= TOLERANCE


def test_edits_and_generations_share_calls_and_change_nothing_of_each_other() -> None:
    asked = [
        edit(seeds=(1,)),
        edit(mask=True, seeds=(2,), strength=0.4, num_inference_steps=10, previews=2),
        edit(mask=True, seeds=(3,), strength=1.0, scheduler="euler"),
        generation(width_px=96, height_px=80, seeds=(4,), num_inference_steps=6),
    ]
    begun = [packed().begin(job, packed().prepare(job))[0][0] for job in asked]
    assert len({image.group for image in begun}) == 1
    while left := unfinished(begun):
        packed().step(left)
    for image, job in zip(begun, asked, strict=True):
        assert difference(packed().decode([image]), draw(packed(), job)) <= TOLERANCE


def test_a_preview_keeps_what_the_mask_keeps() -> None:
    job = edit(mask=True, previews=1)
    (image,), _ = packed().begin(job, packed().prepare(job))
    packed().step([image])
    assert (packed().preview(image)[MASK == 0] == SCENE[MASK == 0]).all()


def test_an_edits_work_is_its_steps_and_the_encoding() -> None:
    asked = edit(strength=0.5, num_inference_steps=10, seeds=(1, 2))
    whole = generation(width_px=96, height_px=80, default_size_px=96, num_inference_steps=10)
    area = 80 / 96
    assert asked.image_steps == pytest.approx(2 * 5 * area + area)
    assert packed().plan(asked).steps == packed().plan(whole).steps - 5
    assert packed().plan(asked).preparation == Preparation("vae", 96 * 80)
    assert (
        packed().plan(replace(asked, variant="distilled-tiny-vae")).preparation.kind == "vae_tiny"
    )
    assert packed().plan(whole).preparation is None


def test_what_a_mask_keeps_are_the_sources_own_pixels() -> None:
    drawn = draw(packed(), edit(mask=True, previews=1))
    assert (drawn[:, MASK == 0] == SCENE[MASK == 0]).all()
    assert (drawn[:, MASK == 255] != SCENE[MASK == 255]).any()


def test_the_less_strength_the_nearer_the_source() -> None:
    near, far = (
        difference(draw(packed(), edit(strength=strength, num_inference_steps=10))[0], SCENE)
        for strength in (0.2, 1.0)
    )
    assert near < far / 2
