"""Plans are known without a model, and the schedulers do as planned."""

import itertools

import pytest
import torch
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from serve.catalogue import MINIATURE
from serve.generation import SchedulerName
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.trajectories import SCHEDULERS, guide, new_scheduler, plan, unet_calls
from tests.fakes import generation

VARIANT = MINIATURE.variants["original"]


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_the_planned_unet_calls_are_the_schedulers_timesteps(scheduler: SchedulerName) -> None:
    scheduler_class, options = SCHEDULERS[scheduler]
    real = scheduler_class.from_pretrained(WEIGHTS_DIR / "scheduler", **options)
    # All that a request may ask for; LCM's trajectory has 50 steps to choose from.
    for steps in range(1, 51 if scheduler == "lcm" else 151):
        real.set_timesteps(steps)
        assert unet_calls(scheduler, steps) == len(real.timesteps), steps


@pytest.mark.parametrize(
    ("changes", "cost"),
    [
        pytest.param({}, 1.0, id="default-size"),
        pytest.param({"guidance_scale": 1.0}, 0.5, id="no-guidance"),
        pytest.param({"width_px": 128}, 2.0, id="twice-the-area"),
        pytest.param({"height_px": 32, "guidance_scale": 0.0}, 0.25, id="both"),
    ],
)
def test_a_step_costs_by_area_and_half_without_guidance(
    changes: dict[str, object], cost: float
) -> None:
    # Its own size is 64x64.
    asked = generation(num_inference_steps=10, scheduler="ddim", **changes)
    assert plan(asked, VARIANT).step_cost == cost


@pytest.mark.parametrize("previews", [0, 1, 2, 3])
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_previews_are_spread_and_below_the_last_step(
    scheduler: SchedulerName, previews: int
) -> None:
    for steps in range(1, 51):
        asked = generation(num_inference_steps=steps, previews=previews, scheduler=scheduler)
        planned = plan(asked, VARIANT)
        assert len(planned.previews_at) == min(previews, planned.steps - 1)
        assert sorted(set(planned.previews_at)) == list(planned.previews_at)
        assert all(1 <= at < planned.steps for at in planned.previews_at)
        ends = (0, *planned.previews_at, planned.steps)
        gaps = [after - before for before, after in itertools.pairwise(ends)]
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_guidance_of_a_whole_call_is_that_of_each_image_bit_by_bit(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    scales = [1.1, 2.0, 7.3, 7.5, 12.7, 30.0]  # Some have no exact half precision.
    base, conditional = torch.randn(2, len(scales), 4, 64, 64, generator=generator).to(dtype)
    together = guide(base, conditional, torch.tensor(scales))
    assert together.dtype == dtype
    for index, scale in enumerate(scales):
        alone = base[index] + scale * (conditional[index] - base[index])
        assert torch.equal(together[index], alone)


def test_karras_sigmas_are_those_of_the_paper() -> None:
    config = PNDMScheduler.from_pretrained(WEIGHTS_DIR / "scheduler").config
    made = new_scheduler("dpm++-karras", config, 5)
    sigmas = made.sigmas[:-1]  # type: ignore[attr-defined]
    # Equation 5 of https://arxiv.org/abs/2206.00364, with rho 7.
    roots = sigmas ** (1 / 7)
    assert torch.allclose(roots.diff(), roots.diff().mean().expand(4), rtol=1e-3)
