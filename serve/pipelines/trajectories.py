"""One image on its way from noise to latents, with a scheduler of its own; and the plan of a job.

Schedulers are diffusers', one per image, since `PNDMScheduler` is stateful. Their tables and
timesteps stay on the CPU: a lookup on a GPU would wait for the device.
"""

import contextlib
import math
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers import scheduling_euler_ancestral_discrete as euler_ancestral
from diffusers.schedulers import scheduling_lcm as lcm
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_ancestral_discrete import (
    EulerAncestralDiscreteScheduler,
)
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch.overrides import TorchFunctionMode

from ..generation import Generation, Plan, Preparation, SchedulerName
from ..variants import Variant
from .components import Scheduler
from .devices import to_device
from .edits import Kept

SCHEDULERS: dict[SchedulerName, tuple[Any, dict[str, Any]]] = {
    "pndm": (PNDMScheduler, {}),
    "ddim": (DDIMScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {}),
    "dpm++-karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler-a": (EulerAncestralDiscreteScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "lcm": (LCMScheduler, {}),
}
"""diffusers' classes, and what their configuration has besides the family's."""
_WITH_NOISE = EulerAncestralDiscreteScheduler, LCMScheduler
"""What draws noise at every step."""


def new_scheduler(
    name: SchedulerName, config: Mapping[str, Any], num_inference_steps: int
) -> Scheduler:
    """A scheduler for one image, with the family's configuration and its timesteps chosen."""
    scheduler_class, options = SCHEDULERS[name]
    # As StableDiffusionPipeline corrects every scheduler, whatever its file says.
    corrected = {**config, "clip_sample": False, "steps_offset": 1}
    scheduler: Scheduler = scheduler_class.from_config(corrected, **options)
    scheduler.set_timesteps(num_inference_steps, device="cpu")
    return scheduler


def move_tables(scheduler: Scheduler, device: torch.device) -> None:
    """Put tables that a step looks up on the device there; the others stay on the CPU."""
    if isinstance(scheduler, UniPCMultistepScheduler):
        # It would copy them one by one, and wait for the device each time.
        scheduler.sigmas = to_device(scheduler.sigmas, device)


def _without_waiting(
    shape: Any, generator: Any = None, device: Any = None, dtype: Any = None, layout: Any = None
) -> torch.Tensor:
    """The noise of diffusers' `randn_tensor`, copied to the device from pinned memory."""
    if not isinstance(generator, torch.Generator) or generator.device == device:
        noise: torch.Tensor = randn_tensor(shape, generator, device, dtype, layout)
        return noise
    return to_device(torch.randn(shape, generator=generator, dtype=dtype), device)


# Their steps draw noise themselves, and copy it so that they wait for the device.
euler_ancestral.randn_tensor = _without_waiting
lcm.randn_tensor = _without_waiting


class _UncheckedSolve(TorchFunctionMode):
    """`torch.linalg.solve`, as UniPC calls it at every step, without its wait for the device.

    It waits to see whether the matrix is singular; UniPC's never is.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.linalg.solve:
            return torch.linalg.solve_ex(*args, **(kwargs or {}))[0]
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True, slots=True)
class Prediction:
    """The UNet's last prediction for an image; immutable, so that another thread can read it.

    `sample` holds the latents before the step and `noise` the guided prediction, both
    `(1, 4, H/8, W/8)`; `call` counts from 0. On CUDA, both are valid once `ready` has completed.
    """

    sample: torch.Tensor
    noise: torch.Tensor
    call: int
    ready: torch.cuda.Event | None


@dataclass(slots=True)
class Trajectory:
    """One image on its way from noise to latents.

    `latents` is `(1, 4, H/8, W/8)`, on CUDA valid once `ready` has completed; the embeddings are
    `(1, 77, D)`, the negative one None without guidance. `generator` has drawn the first noise;
    some schedulers draw more at every step. An edit's `timesteps` are the scheduler's last ones;
    `kept` is what its mask leaves out.
    """

    variant: Variant
    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    negative_embeds: torch.Tensor | None
    guidance_scale: float
    scheduler: Scheduler
    generator: torch.Generator
    timesteps: list[torch.Tensor]
    ready: torch.cuda.Event | None
    generation: Generation
    kept: Kept | None = None
    prediction: Prediction | None = None
    steps_done: int = 0

    @property
    def total_steps(self) -> int:
        """UNet calls in all; PNDM makes one more than `num_inference_steps`."""
        return len(self.timesteps)

    @property
    def guided(self) -> bool:
        """Whether its steps have classifier-free guidance."""
        return self.negative_embeds is not None

    @property
    def group(self) -> Hashable:
        """Equal for images whose next steps can share a UNet call: UNet, size, guidance or not."""
        return self.variant.unet.folder, self.latents.shape[2:], self.guided

    @property
    def decode_group(self) -> Hashable:
        """Equal for images that can share a call of the VAE."""
        return self.variant.vae.folder, self.latents.shape[2:]

    @property
    def timestep(self) -> torch.Tensor:
        """Of the next step."""
        return self.timesteps[self.steps_done]

    @property
    def model_input(self) -> torch.Tensor:
        """The latents as the UNet expects them at the next step."""
        return self.scheduler.scale_model_input(self.latents, self.timestep)

    def advance(self, noise: torch.Tensor, mark: Callable[[], torch.cuda.Event | None]) -> None:
        """Take one step with a noise prediction, `(1, 4, H/8, W/8)`; unchanged if it raises.

        `mark` is called when all the work has been launched.
        """
        scheduler = vars(self.scheduler)
        before = {
            name: list(value) if isinstance(value, list) else value
            for name, value in scheduler.items()
        }
        options: dict[str, torch.Generator] = {}
        if isinstance(self.scheduler, _WITH_NOISE):
            options["generator"] = self.generator
        random_states = [generator.get_state() for generator in options.values()]
        try:
            with self._solver():
                latents = self.scheduler.step(
                    noise, self.timestep, self.latents, return_dict=False, **options
                )[0]
            if self.kept is not None:
                latents = self.kept.put_back(latents, self.steps_done + 1)
            ready = mark()
        except BaseException:
            scheduler.update(before)
            for generator, state in zip(options.values(), random_states, strict=True):
                generator.set_state(state)
            raise
        self.prediction = Prediction(self.latents, noise, self.steps_done, ready)
        self.latents, self.ready = latents, ready
        self.steps_done += 1

    def _solver(self) -> AbstractContextManager[object]:
        unipc = isinstance(self.scheduler, UniPCMultistepScheduler)
        return _UncheckedSolve() if unipc else contextlib.nullcontext()

    def estimate(self, last: Prediction) -> torch.Tensor:
        """The finished latents according to a prediction: the sample without its noise.

        Previews show this: the latents themselves are mere noise to the eye even halfway.

        `sample = signal * finished + sigma * noise`, with `signal**2 + sigma**2 == 1` except for
        both Eulers, where `signal` is 1 (Karras et al., https://arxiv.org/abs/2206.00364). Some
        UNets predict `signal * noise - sigma * finished`, of the former kind, in place of the noise
        (Salimans and Ho, https://arxiv.org/abs/2202.00512).
        """
        if isinstance(self.scheduler, EulerDiscreteScheduler | EulerAncestralDiscreteScheduler):
            # An edit leaves out the first.
            first = len(self.scheduler.sigmas) - 1 - self.total_steps
            signal, sigma = 1.0, float(self.scheduler.sigmas[first + last.call])
        else:
            power = float(self.scheduler.alphas_cumprod[int(self.timesteps[last.call])])
            signal, sigma = math.sqrt(power), math.sqrt(1 - power)
        # Half precision has too few digits where the signal is weak.
        sample, predicted = last.sample.float(), last.noise.float()
        if self.scheduler.config["prediction_type"] == "v_prediction":
            scale = math.hypot(signal, sigma)
            finished = (signal / scale * sample - sigma * predicted) / scale
        else:
            finished = (sample - sigma * predicted) / signal
        return finished.to(last.sample.dtype)


def guide(
    unconditional: torch.Tensor, conditional: torch.Tensor, scales: torch.Tensor
) -> torch.Tensor:
    """Guided predictions of a call, `(B, 4, H/8, W/8)`; with scales `(B,)`, float32.

    Bit by bit what each image's own expression with a number for the scale would be: torch
    multiplies half precision by a number in single precision, and so it does in place here.
    """
    difference = conditional - unconditional
    return difference.mul_(scales[:, None, None, None]).add_(unconditional)


def unet_calls(scheduler: SchedulerName, num_inference_steps: int) -> int:
    """UNet calls of one image. PNDM repeats its second timestep, if there is one."""
    repeated = scheduler == "pndm" and num_inference_steps > 1
    return num_inference_steps + repeated


def plan(generation: Generation, variant: Variant) -> Plan:
    """A request's work: its steps, the cost of each, and the steps to show previews after."""
    steps = unet_calls(generation.scheduler, generation.num_inference_steps)
    steps -= generation.first_step
    parts = 1 + (generation.previews if variant.preview_vae is not None else 0)
    return Plan(
        images=len(generation.seeds),
        steps=steps,
        step_cost=generation.step_cost,
        previews_at=tuple(sorted({part * steps // parts for part in range(1, parts)} - {0})),
        preparation=None
        if generation.source is None
        else Preparation(variant.vae.folder, generation.width_px * generation.height_px),
    )
