"""sd-v1 at 512x512 in fp16 on a CUDA device that isn't there: nothing waits, nothing is mixed.

Can't show: what real kernels make of it, how fast, and waits inside a driver or a library.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler

from serve.catalogue import SD_V1
from serve.generation import Source
from serve.pipelines import embeddings, vae
from serve.pipelines import pipeline as under_test
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.trajectories import SCHEDULERS
from serve.weights.layout import architecture_dir
from tests.cuda_without_gpu.device import Device, Waits, cuda, kept
from tests.fakes import generation
from tests.pictures import finish

__all__ = ["cuda"]

pytestmark = pytest.mark.thorough
# The two UNets and the two VAEs.
VARIANTS = ("original", "distilled-tiny-vae")


@pytest.fixture(scope="module")
def pipe(cuda: Device) -> Iterator[Pipeline]:
    with cuda:
        variants = [SD_V1.variants[name] for name in VARIANTS]
        with kept():
            pipe = Pipeline.load(
                variants, architecture_dir("sd-v1"), "cuda", Optimisations(compile=False)
            )
        yield pipe


def draw(pipe: Pipeline, **changes: Any) -> None:
    fields = {"width_px": 512, "height_px": 512, "default_size_px": 512, "num_inference_steps": 2}
    asked = generation(**{**fields, **changes})
    images, _ = pipe.begin(asked, pipe.prepare(asked))
    finish(pipe, images)
    for image in images:
        assert image.latents.shape == (1, 4, asked.height_px // 8, asked.width_px // 8)
        assert image.latents.dtype == image.prompt_embeds.dtype == torch.float16
        assert image.latents.device == image.prompt_embeds.device == torch.device("cuda:0")
        assert {timestep.device.type for timestep in image.timesteps} == {"cpu"}
    pixels = pipe.decode(images)
    assert pixels.shape == (len(images), asked.height_px, asked.width_px, 3)
    assert pixels.dtype == np.uint8
    assert pipe.preview(images[0]).shape == pixels.shape[1:]


@pytest.mark.parametrize(
    ("scheduler", "variant"),
    [
        ("pndm", "original"),
        *((name, "distilled-tiny-vae") for name in SCHEDULERS),
    ],
)
def test_a_picture_waits_for_the_device_only_when_it_is_fetched(
    pipe: Pipeline, scheduler: str, variant: str
) -> None:
    """With guidance in recorded calls, without it and in another size in an eager one."""
    draw(pipe, variant=variant, scheduler=scheduler, seeds=(1, 2, 3))
    draw(pipe, variant=variant, scheduler=scheduler, guidance_scale=1.0, width_px=768)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("scheduler", "variant"),
    [("pndm", "original"), *((name, "distilled-tiny-vae") for name in SCHEDULERS)],
)
def test_an_edit_waits_for_the_device_only_when_it_is_fetched(
    pipe: Pipeline, scheduler: str, variant: str, masked: bool
) -> None:
    pixels, mask = np.zeros((512, 512, 3), np.uint8), np.full((512, 512), 255, np.uint8)
    source = Source(pixels.tobytes(), mask.tobytes() if masked else None, 0.5)
    draw(pipe, variant=variant, scheduler=scheduler, num_inference_steps=4, source=source)


def timesteps_on_the_device(patch: pytest.MonkeyPatch) -> None:
    real = PNDMScheduler.set_timesteps
    patch.setattr(
        PNDMScheduler, "set_timesteps", lambda self, steps, device: real(self, steps, "cuda:0")
    )


def copies_from_pageable_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(under_test, "to_device", lambda tensor, device: tensor.to(device))


def pixels_fetched_one_by_one(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vae.SideStream, "fetch", lambda self, *tensors: [each.cpu() for each in tensors])


def token_ids_in_main_memory(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(embeddings, "to_device", lambda tensor, device: tensor)


@pytest.mark.parametrize(
    ("mistake", "found"),
    [
        (timesteps_on_the_device, Waits),
        (copies_from_pageable_memory, Waits),
        (pixels_fetched_one_by_one, Waits),
        (token_ids_in_main_memory, Waits),
    ],
)
def test_mistakes_are_found(
    pipe: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
    mistake: Callable[[pytest.MonkeyPatch], None],
    found: type[Exception],
) -> None:
    mistake(monkeypatch)
    with pytest.raises(found):
        draw(pipe, variant="distilled-tiny-vae", prompt=mistake.__name__)  # Not encoded yet.
