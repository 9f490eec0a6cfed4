"""The pipelines on CUDA in fp16. Needs torch, diffusers, transformers and pydantic; no Ray.

python -m pytest --noconftest tests/gpu
"""

import numpy as np
import pytest
import torch

from serve.devices import resolve_device
from serve.miniature import WEIGHTS_DIR
from serve.pipelines import Pipeline
from serve.variants import MINIATURE
from tests.fakes import generation
from tests.pictures import TOLERANCE, difference, finish, stock_picture

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("variant", list(MINIATURE.variants))
@pytest.mark.parametrize("scheduler", ["pndm", "ddim", "dpm++", "euler"])
@pytest.mark.filterwarnings("ignore")
def test_the_fp16_picture_is_that_of_stable_diffusion_pipeline(
    variant: str, scheduler: str
) -> None:
    pipe = Pipeline.load([MINIATURE.variants[variant]], WEIGHTS_DIR, "cuda")
    asked = generation(
        variant=variant,
        prompt="a golden vase with different flowers",
        seeds=(2023, 4),
        width_px=96,
        height_px=96,
        num_inference_steps=12,
        scheduler=scheduler,
    )
    trajectories, _ = pipe.begin(asked)
    finish(pipe, trajectories)
    assert difference(pipe.decode(trajectories), stock_picture(pipe, asked)) <= TOLERANCE


def test_the_device_draws_nearly_the_cpus_picture() -> None:
    asked = generation(seeds=(2023,), width_px=96, height_px=96, num_inference_steps=12)
    drawn: list[np.ndarray] = []
    for device in ("cuda", "cpu"):
        pipe = Pipeline.load([MINIATURE.variants["original"]], WEIGHTS_DIR, device)
        trajectories, _ = pipe.begin(asked)
        finish(pipe, trajectories)
        drawn.append(pipe.decode(trajectories))
    # The same noise from the same CPU generator; half precision rounds differently.
    assert difference(*drawn) < 4


def test_auto_takes_cuda_in_fp16() -> None:
    device, dtype = resolve_device("auto")
    assert (device.type, dtype) == ("cuda", torch.float16)
