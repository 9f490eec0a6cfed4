"""A variant's components on a device, and three functions over them: begin, one step, decode.

diffusers' models and schedulers, driven one denoising step at a time with a `[B]` tensor of
timesteps, so that images with different step counts, guidance scales and schedulers can share a
UNet call. A picture is the one that `StableDiffusionPipeline` makes with the same arguments.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTokenizer

from .errors import DeviceUnavailable
from .generation import Generation, SchedulerName
from .variants import Variant
from .weights.layout import component_dirs, precision_suffix

DeviceName = Literal["auto", "cpu", "cuda"]

_SCHEDULERS: dict[SchedulerName, Any] = {
    "pndm": PNDMScheduler,
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "euler": EulerDiscreteScheduler,
}
_VAES = {"AutoencoderKL": AutoencoderKL, "AutoencoderTiny": AutoencoderTiny}


def resolve_device(name: DeviceName) -> tuple[torch.device, torch.dtype]:
    """The device, and the one place that decides the dtype: fp16 on CUDA, fp32 on a CPU.

    A CPU emulates half precision and is 7x slower with it.

    Raises:
        DeviceUnavailable: CUDA was asked for by name and isn't there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceUnavailable(
            "device: 'cuda' was configured, but torch finds no CUDA device here; "
            "use 'cpu', or 'auto' to take what is there"
        )
    if name == "cuda" or (name == "auto" and available):
        return torch.device("cuda"), torch.float16
    return torch.device("cpu"), torch.float32


@dataclass(slots=True)
class Trajectory:
    """One image on its way from noise to latents, with a scheduler of its own.

    `latents` is `(1, 4, H/8, W/8)`; the embeddings are `(1, 77, D)`, the negative one None
    without guidance. `timesteps` stay on the CPU: indexing them on a GPU would wait for it.
    """

    latents: torch.Tensor
    prompt_embeds: torch.Tensor
    negative_embeds: torch.Tensor | None
    guidance_scale: float
    scheduler: Any
    timesteps: list[torch.Tensor]
    steps_done: int = 0

    @property
    def total_steps(self) -> int:
        """UNet calls in all; PNDM makes one more than the steps asked for."""
        return len(self.timesteps)


class Pipeline:
    """A variant ready to draw. Not thread-safe: one thread drives it."""

    def __init__(
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL | AutoencoderTiny,
        scheduler: PNDMScheduler,
    ) -> None:
        self.tokenizer = tokenizer
        self.text_encoder = text_encoder.eval()
        self.unet = unet.eval()
        self.vae = vae.eval()
        self.scheduler = scheduler
        # StableDiffusionPipeline corrects every scheduler so, whatever its file says.
        self._scheduler_config = {**scheduler.config, "clip_sample": False, "steps_offset": 1}
        self.device = unet.device
        self.dtype = unet.dtype

    @classmethod
    def load(cls, variant: Variant, folder: Path, device_name: DeviceName) -> Self:
        """Read a variant from a family folder that `weights.check.check_family` has passed.

        Raises:
            DeviceUnavailable: see `resolve_device`.
        """
        device, dtype = resolve_device(device_name)
        dirs = component_dirs(folder, variant)

        def model(model_class: Any, component_dir: Path) -> Any:
            loaded = model_class.from_pretrained(
                component_dir,
                dtype=dtype,
                variant=precision_suffix(component_dir),
                use_safetensors=True,
                local_files_only=True,
            )
            return loaded.to(device)

        return cls(
            tokenizer=CLIPTokenizer.from_pretrained(dirs["tokenizer"], local_files_only=True),
            text_encoder=model(CLIPTextModel, dirs["text_encoder"]),
            unet=model(UNet2DConditionModel, dirs["unet"]),
            vae=model(_VAES[variant.vae.component_class], dirs["vae"]),
            scheduler=PNDMScheduler.from_pretrained(dirs["scheduler"], local_files_only=True),
        )

    @torch.inference_mode()
    def begin(self, generation: Generation) -> tuple[list[Trajectory], tuple[str, ...]]:
        """Encode the prompts and draw the noise: one trajectory per seed, and warnings.

        The noise of an image comes from a CPU generator with its own seed, so it depends neither
        on the device nor on the other images.
        """
        warnings = []
        prompt_embeds, cut = self._encode("prompt", generation.prompt)
        warnings += cut
        negative_embeds = None
        if generation.guidance_scale > 1:
            negative_embeds, cut = self._encode("negative_prompt", generation.negative_prompt)
            warnings += cut
        shape = (
            1,
            self.unet.config.in_channels,
            generation.height_px // 8,
            generation.width_px // 8,
        )
        trajectories = []
        for seed in generation.seeds:
            scheduler = _SCHEDULERS[generation.scheduler].from_config(self._scheduler_config)
            scheduler.set_timesteps(generation.num_inference_steps, device="cpu")
            noise = randn_tensor(
                shape,
                generator=torch.Generator("cpu").manual_seed(seed),
                device=self.device,
                dtype=self.dtype,
            )
            trajectories.append(
                Trajectory(
                    latents=noise * scheduler.init_noise_sigma,
                    prompt_embeds=prompt_embeds,
                    negative_embeds=negative_embeds,
                    guidance_scale=generation.guidance_scale,
                    scheduler=scheduler,
                    timesteps=list(scheduler.timesteps),
                )
            )
        return trajectories, tuple(warnings)

    @torch.inference_mode()
    def step(self, trajectories: list[Trajectory]) -> None:
        """Advance every trajectory by one step of its own, in one UNet call.

        They must agree on the latents' size and on guidance being on or off; step counts,
        guidance scales, schedulers and prompts may differ.
        """
        now = [one.timesteps[one.steps_done] for one in trajectories]
        latents = torch.cat(
            [
                one.scheduler.scale_model_input(one.latents, timestep)
                for one, timestep in zip(trajectories, now, strict=True)
            ]
        )
        embeds = [one.prompt_embeds for one in trajectories]
        timesteps = torch.tensor([float(timestep) for timestep in now]).to(self.device)
        negative = [one.negative_embeds for one in trajectories if one.negative_embeds is not None]
        if negative:
            # Classifier-free guidance: the unconditional half first, as diffusers has it.
            latents, timesteps = torch.cat([latents] * 2), torch.cat([timesteps] * 2)
            embeds = negative + embeds
        noise: torch.Tensor = self.unet(
            latents, timesteps, encoder_hidden_states=torch.cat(embeds), return_dict=False
        )[0]
        unconditional, conditional = noise.chunk(2) if negative else (noise, noise)
        for index, (one, timestep) in enumerate(zip(trajectories, now, strict=True)):
            prediction = conditional[index : index + 1]
            if negative:
                base = unconditional[index : index + 1]
                prediction = base + one.guidance_scale * (prediction - base)
            stepped = one.scheduler.step(prediction, timestep, one.latents, return_dict=False)
            one.latents = stepped[0]
            one.steps_done += 1

    @torch.inference_mode()
    def decode(self, trajectories: list[Trajectory]) -> NDArray[np.uint8]:
        """Turn latents into pixels: `(B, H, W, 3)` uint8, converted on the device."""
        latents = torch.cat([one.latents for one in trajectories])
        decoded = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        unit = (decoded * 0.5 + 0.5).clamp(0, 1).float()
        pixels: NDArray[np.uint8] = (
            (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        )
        return pixels

    def _encode(self, field: str, text: str) -> tuple[torch.Tensor, list[str]]:
        limit = self.tokenizer.model_max_length
        used = self.tokenizer(
            text, padding="max_length", max_length=limit, truncation=True, return_tensors="pt"
        )
        given = len(self.tokenizer(text, verbose=False).input_ids)
        warnings = []
        if given > limit:
            warnings.append(f"{field}: {given} tokens, cut to the first {limit}")
        return self.text_encoder(used.input_ids.to(self.device))[0], warnings
