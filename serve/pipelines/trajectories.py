"""One image under way: its scheduler, its latents, and what the finished image may look like.

Schedulers are diffusers', one per image, since `PNDMScheduler` is stateful. Their tables and
timesteps stay on the CPU: a lookup on a GPU would wait for it.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from ..generation import Generation, Plan, SchedulerName
from ..variants import Variant

SCHEDULERS: dict[SchedulerName, Any] = {
    "pndm": PNDMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the UNet last said of an image; whole, so that another thread can read it meanwhile.

    `sample` are the latents before the step and `noise` the guided prediction, `(1, 4, H/8, W/8)`
    both; `call` counts from 0. On CUDA, both are there once `ready` has happened.
    """

    sample: torch.Tensor
    noise: torch.Tensor
    call: int
    ready: torch.cuda.Event | None


@dataclass(slots=True)
class Trajectory:
    """One image on its way from noise to latents, with a scheduler of its own.

    `latents` is `(1, 4, H/8, W/8)`, on CUDA once `ready` has happened; the embeddings are
    `(1, 77, D)`, the negative one None without guidance. The first `guided_steps` have guidance.
    """

    variant: Variant
    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    negative_embeds: torch.Tensor | None
    guidance_scale: float
    guided_steps: int
    scheduler: Any
    timesteps: list[torch.Tensor]
    ready: torch.cuda.Event | None
    prediction: Prediction | None = None
    steps_done: int = 0

    @property
    def total_steps(self) -> int:
        """UNet calls in all; PNDM makes one more than the steps asked for."""
        return len(self.timesteps)

    @property
    def guided(self) -> bool:
        """Whether the next step has classifier-free guidance; of a finished one, the last."""
        step = min(self.steps_done, self.total_steps - 1)
        return self.negative_embeds is not None and step < self.guided_steps

    @property
    def group(self) -> Hashable:
        """Equal where the next step can share a UNet call: UNet, size, and guidance on or off."""
        return self.variant.unet.folder, self.latents.shape[2:], self.guided

    @property
    def decode_group(self) -> Hashable:
        """Equal where the images can share a call of the decoder."""
        return self.variant.vae.folder, self.latents.shape[2:]

    @property
    def timestep(self) -> torch.Tensor:
        """Of the next step."""
        return self.timesteps[self.steps_done]

    @property
    def model_input(self) -> torch.Tensor:
        """The latents as the UNet wants them at the next step."""
        scaled: torch.Tensor = self.scheduler.scale_model_input(self.latents, self.timestep)
        return scaled

    def advance(self, noise: torch.Tensor, mark: Callable[[], torch.cuda.Event | None]) -> None:
        """Go one step with a predicted noise `(1, 4, H/8, W/8)`, or stay exactly as before.

        `mark` is called when everything has been launched.
        """
        scheduler = vars(self.scheduler)
        before = {
            name: list(value) if isinstance(value, list) else value
            for name, value in scheduler.items()
        }
        try:
            latents = self.scheduler.step(noise, self.timestep, self.latents, return_dict=False)[0]
            ready = mark()
        except BaseException:
            scheduler.update(before)
            raise
        self.prediction = Prediction(self.latents, noise, self.steps_done, ready)
        self.latents, self.ready = latents, ready
        self.steps_done += 1

    def estimate(self, last: Prediction) -> torch.Tensor:
        """The finished latents as a prediction has them: the sample without its noise.

        Previews show this, since the noisy latents are mere noise to the eye even halfway.

        `sample = signal * finished + noise`, with the powers of signal and noise adding up to 1
        but for Euler, whose samples keep the signal whole (Karras et al., arXiv 2206.00364).
        """
        if isinstance(self.scheduler, EulerDiscreteScheduler):
            signal, sigma = 1.0, float(self.scheduler.sigmas[last.call])
        else:
            power = float(self.scheduler.alphas_cumprod[int(self.timesteps[last.call])])
            signal, sigma = math.sqrt(power), math.sqrt(1 - power)
        # Half precision is short of digits where the signal is weak.
        finished = (last.sample.float() - sigma * last.noise.float()) / signal
        return finished.to(last.sample.dtype)


def unet_calls(scheduler: SchedulerName, num_inference_steps: int) -> int:
    """UNet calls of one image. PNDM takes its second timestep twice, where it has one."""
    once_more = scheduler == "pndm" and num_inference_steps > 1
    return num_inference_steps + once_more


def guided_calls(calls: int, skip_guidance_after: float) -> int:
    """How many of an image's UNet calls have guidance: the first ones, rounded up."""
    return math.ceil(calls * skip_guidance_after)


def plan(generation: Generation, variant: Variant, skip_guidance_after: float) -> Plan:
    """What a request takes: its steps, what each costs, and after which it shows previews.

    A step costs in proportion to the picture's area, and half without guidance; attention, which
    grows faster, has the smaller part in it.
    """
    steps = unet_calls(generation.scheduler, generation.num_inference_steps)
    guided = guided_calls(steps, skip_guidance_after) if generation.guidance_scale > 1 else 0
    area = generation.width_px * generation.height_px / variant.default_size_px**2
    parts = 1 + (generation.previews if variant.preview_vae is not None else 0)
    return Plan(
        images=len(generation.seeds),
        steps=steps,
        step_cost=area * (1 + guided / steps) / 2,
        previews_at=tuple(sorted({part * steps // parts for part in range(1, parts)} - {0})),
    )
