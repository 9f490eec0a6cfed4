"""A picture of ours is the picture of `StableDiffusionPipeline`, on the shipped weights."""

import functools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from serve.errors import DeviceUnavailable
from serve.generation import Generation, SchedulerName
from serve.miniature import WEIGHTS_DIR
from serve.pipelines import Pipeline, resolve_device
from serve.variants import MINIATURE
from tests.fakes import generation
from tests.pictures import TOLERANCE, difference, finish, stock_picture


@functools.cache
def pipeline(variant: str) -> Pipeline:
    torch.set_num_threads(1)
    return Pipeline.load(MINIATURE.variants[variant], WEIGHTS_DIR, "cpu")


def draw(variant: str, asked: Generation) -> NDArray[np.uint8]:
    trajectories, _ = pipeline(variant).begin(asked)
    finish(pipeline(variant), trajectories)
    return pipeline(variant).decode(trajectories)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", list(MINIATURE.variants))
@pytest.mark.parametrize(
    ("scheduler", "steps", "guidance_scale", "negative_prompt"),
    [
        pytest.param("pndm", 12, 4.0, "", id="pndm"),
        pytest.param("pndm", 1, 4.0, "", id="pndm-one-step"),
        pytest.param("pndm", 2, 7.5, "a golden vase", id="pndm-two-steps"),
        pytest.param("ddim", 6, 3.0, "a blue circle", id="ddim"),
        pytest.param("dpm++", 5, 7.5, "red", id="dpm++"),
        pytest.param("euler", 5, 2.0, "", id="euler"),
        pytest.param("ddim", 4, 1.0, "red", id="guidance-off-at-1"),
        pytest.param("euler", 3, 0.0, "", id="guidance-off-at-0"),
    ],
)
def test_the_picture_is_that_of_stable_diffusion_pipeline(
    variant: str,
    scheduler: SchedulerName,
    steps: int,
    guidance_scale: float,
    negative_prompt: str,
) -> None:
    asked = generation(
        prompt="a golden vase with different flowers",
        negative_prompt=negative_prompt,
        seeds=(2023, 4),
        width_px=96,
        height_px=80,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
    )
    expected = stock_picture(pipeline(variant), asked)
    assert expected.std() > 5  # Two blank pictures would agree, too.
    assert difference(draw(variant, asked), expected) <= TOLERANCE


@pytest.mark.parametrize("variant", list(MINIATURE.variants))
def test_n_images_equal_n_single_requests(variant: str) -> None:
    together = draw(variant, generation(seeds=(5, 6, 7), num_inference_steps=6))
    alone = [draw(variant, generation(seeds=(seed,), num_inference_steps=6)) for seed in (5, 6, 7)]
    for one, other in zip(together, alone, strict=True):
        assert difference(one, other[0]) <= TOLERANCE
    assert difference(together[0], together[1]) > 5


def test_images_with_different_steps_scales_and_schedulers_share_a_unet_call() -> None:
    pipe = pipeline("distilled")
    asked = [
        generation(seeds=(1,), num_inference_steps=4, guidance_scale=2.0),
        generation(seeds=(2,), num_inference_steps=9, guidance_scale=7.0, scheduler="euler"),
        generation(seeds=(3,), num_inference_steps=6, scheduler="dpm++", negative_prompt="red"),
    ]
    trajectories = [pipe.begin(one)[0][0] for one in asked]
    finish(pipe, trajectories)
    for picture, one in zip(pipe.decode(trajectories), asked, strict=True):
        assert difference(picture, draw("distilled", one)[0]) <= TOLERANCE


def test_pndm_makes_one_call_more_than_steps() -> None:
    trajectories, _ = pipeline("distilled").begin(generation(num_inference_steps=25))
    assert trajectories[0].total_steps == 26


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        pytest.param("prompt", {"prompt": "star " * 100}, id="prompt"),
        pytest.param("negative_prompt", {"negative_prompt": "star " * 100}, id="negative"),
    ],
)
def test_text_beyond_the_tokenizers_limit_is_cut_and_told(
    field: str, changes: dict[str, object]
) -> None:
    pipe = pipeline("distilled")
    assert pipe.begin(generation())[1] == ()
    _, warnings = pipe.begin(generation(**changes))
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{field}: ")
    assert "cut to the first 77" in warnings[0]


def test_a_negative_prompt_has_no_effect_without_guidance() -> None:
    plain, negative = (
        draw("distilled", generation(guidance_scale=1.0, negative_prompt=text))
        for text in ("", "a red star")
    )
    assert np.array_equal(plain, negative)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_missing_is_an_error_only_when_asked_for_by_name() -> None:
    assert resolve_device("auto") == (torch.device("cpu"), torch.float32)
    with pytest.raises(DeviceUnavailable, match="device: 'cuda'"):
        resolve_device("cuda")
