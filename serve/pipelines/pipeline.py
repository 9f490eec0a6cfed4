"""A replica's variants on a device, and what is done with them: begin, one step, decode, preview.

diffusers' models and schedulers, driven one denoising step at a time with a `[B]` tensor of
timesteps, so that images with different step counts, guidance scales and schedulers can share a
UNet call. A picture is the one that `StableDiffusionPipeline` makes with the same arguments.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..generation import Generation, Plan
from ..variants import Variant
from .compile import Readiness, prepare_unet, use_channels_last
from .components import Components, load_components
from .cuda_graphs import UNetCall
from .devices import DeviceName, StepClock, clock_s, name_memory_errors, resolve_device, to_device
from .embeddings import EmbeddingCache, PromptEncoder
from .optimisations import DEFAULTS, Optimisations
from .trajectories import SCHEDULERS, Trajectory, guided_calls, plan
from .vae import Decoder

if TYPE_CHECKING:
    from .safety import SafetyChecker  # Imported where it is loaded: older transformers lack it.


class Pipeline:
    """One or several variants ready to draw: a `denoiser.Denoiser`, whose threads it relies on.

    `components` holds each variant's models by name, `readiness` what was done to make them fast.
    `embedding_cache` counts its hits and misses.
    """

    def __init__(
        self,
        variants: Sequence[Variant],
        components: dict[str, Components],
        optimisations: Optimisations,
        readiness: Readiness,
        safety_checker: "SafetyChecker | None" = None,
    ) -> None:
        self.components = components
        self.readiness = readiness
        self.optimisations = optimisations
        self.embedding_cache = EmbeddingCache(optimisations.embedding_cache)
        self._variants = {one.name: one for one in variants}
        self._encoders = {
            name: PromptEncoder(
                self._variants[name].text_encoder.folder,
                one.tokenizer,
                one.text_encoder,
                self.embedding_cache,
            )
            for name, one in components.items()
        }
        unet = components[variants[0].name].unet
        self.device, self.dtype = unet.device, unet.dtype
        self._clock = StepClock(self.device)
        self._decoder = Decoder(self.device)
        self._safety_checker = safety_checker
        if optimisations.channels_last:
            use_channels_last(
                model
                for one in components.values()
                for model in (one.unet, one.vae, one.preview_vae)
                if model is not None
            )
        self._unets: dict[str, UNetCall] = {}
        for one in variants:
            if one.unet.folder not in self._unets:
                self._unets[one.unet.folder] = self._prepare(one)

    @classmethod
    def load(
        cls,
        variants: Sequence[Variant],
        folder: Path,
        device_name: DeviceName,
        optimisations: Optimisations = DEFAULTS,
        *,
        safety_checker: bool = False,
    ) -> Self:
        """Read variants from a family folder that `weights.check.check_family` has passed.

        Variants of one family; what they share is loaded once, such as the safety checker, where
        it is asked for: then `flagged` asks it. On CUDA it returns when the UNets
        are compiled and recorded, which `readiness` tells about.

        Raises:
            DeviceUnavailable: see `resolve_device`.
        """
        device, dtype = resolve_device(device_name)
        if device.type == "cpu" and optimisations.cpu_threads is not None:
            torch.set_num_threads(optimisations.cpu_threads)
        if optimisations.deterministic:
            torch.use_deterministic_algorithms(True)
        readiness = Readiness()
        components = readiness.timed(
            "load", lambda: load_components(variants, folder, device, dtype)
        )
        checker = None
        if safety_checker:
            from .safety import SafetyChecker

            checker = readiness.timed(
                "safety_checker", lambda: SafetyChecker.load(variants[0], folder, device, dtype)
            )
        return cls(variants, components, optimisations, readiness, checker)

    @property
    def prompt_lookups(self) -> tuple[int, int]:
        """Prompts found in the embedding cache, and prompts that had to be encoded."""
        return self.embedding_cache.hits, self.embedding_cache.misses

    def clock_s(self) -> float:
        """What to time steps with; see `devices.clock_s`."""
        return clock_s(self.device)

    def plan(self, generation: Generation) -> Plan:
        """What the request is going to take; see `trajectories.plan`."""
        variant = self._variants[generation.variant]
        return plan(generation, variant, self.optimisations.skip_guidance_after)

    @name_memory_errors
    @torch.inference_mode()
    def begin(self, generation: Generation) -> tuple[list[Trajectory], tuple[str, ...]]:
        """Encode the prompts and draw the noise: one trajectory per seed, and warnings.

        The noise of an image comes from a CPU generator with its own seed, so it depends neither
        on the device nor on the other images.
        """
        variant = self._variants[generation.variant]
        parts, encoder = self.components[variant.name], self._encoders[variant.name]
        prompt_embeds, warnings = encoder.encode("prompt", generation.prompt)
        negative_embeds = None
        if generation.guidance_scale > 1:
            negative_embeds, cut = encoder.encode("negative_prompt", generation.negative_prompt)
            warnings = warnings + cut
        # StableDiffusionPipeline corrects every scheduler so, whatever its file says.
        config = {**parts.scheduler.config, "clip_sample": False, "steps_offset": 1}
        size = generation.height_px // 8, generation.width_px // 8
        trajectories = []
        for seed in generation.seeds:
            scheduler = SCHEDULERS[generation.scheduler].from_config(config)
            scheduler.set_timesteps(generation.num_inference_steps, device="cpu")
            noise = torch.randn(
                (1, parts.unet.config.in_channels, *size),
                generator=torch.Generator("cpu").manual_seed(seed),
                dtype=self.dtype,
            )
            timesteps = list(scheduler.timesteps)
            trajectories.append(
                Trajectory(
                    variant=variant,
                    latents=to_device(noise, self.device) * scheduler.init_noise_sigma,
                    prompt_embeds=prompt_embeds,
                    negative_embeds=negative_embeds,
                    guidance_scale=generation.guidance_scale,
                    guided_steps=guided_calls(
                        len(timesteps), self.optimisations.skip_guidance_after
                    ),
                    scheduler=scheduler,
                    timesteps=timesteps,
                    ready=None,
                )
            )
        ready = self._clock.mark()
        for one in trajectories:
            one.ready = ready
        return trajectories, tuple(warnings)

    @name_memory_errors
    @torch.inference_mode()
    def step(self, trajectories: list[Trajectory]) -> None:
        """Advance every trajectory, all of one `group`, by one step of its own in one UNet call.

        Step counts, guidance scales, schedulers and prompts may differ, and so may variants that
        share a UNet; where it is deterministic, each has a call to itself.
        On CUDA it returns when the step before is done: launches stay one ahead.
        """
        if self.optimisations.deterministic:
            # Not one padded size: a row of a padded call may still depend on its place in it.
            for one in trajectories:
                self._advance([one])
        else:
            self._advance(trajectories)
        self._clock.keep_pace()

    def _advance(self, trajectories: list[Trajectory]) -> None:
        latents = torch.cat([one.model_input for one in trajectories])
        embeds = [one.prompt_embeds for one in trajectories]
        timesteps = to_device(
            torch.tensor([float(one.timestep) for one in trajectories]), self.device
        )
        negative = [one.negative_embeds for one in trajectories if one.negative_embeds is not None]
        guided = trajectories[0].guided
        if guided:
            # Classifier-free guidance: the unconditional half first, as diffusers has it.
            latents, timesteps = torch.cat([latents] * 2), torch.cat([timesteps] * 2)
            embeds = negative + embeds
        unet = self._unets[trajectories[0].variant.unet.folder]
        noise = unet(latents, timesteps, torch.cat(embeds))
        unconditional, conditional = noise.chunk(2) if guided else (noise, noise)
        predictions = []
        for index, one in enumerate(trajectories):
            prediction = conditional[index : index + 1]
            if guided:
                base = unconditional[index : index + 1]
                prediction = base + one.guidance_scale * (prediction - base)
            predictions.append(prediction)
        # Only now, when nothing large is left to fail, does a trajectory change.
        for one, prediction in zip(trajectories, predictions, strict=True):
            one.advance(prediction, self._clock.mark)

    def decode_slice(self, trajectory: Trajectory) -> int:
        """How many images like this one to decode at once, 1 to 8; on CUDA by free memory."""
        if self.optimisations.deterministic:
            return 1
        vae = self.components[trajectory.variant.name].vae
        return self._decoder.slice_size(vae, trajectory)

    @name_memory_errors
    @torch.inference_mode()
    def decode(self, trajectories: list[Trajectory]) -> NDArray[np.uint8]:
        """Turn the latents of one `decode_group` into pixels: `(B, H, W, 3)` uint8.

        Raises:
            NotFinite: one of the images is infinite or not a number.
        """
        vae = self.components[trajectories[0].variant.name].vae
        return self._decoder.decode(vae, trajectories)

    @name_memory_errors
    @torch.inference_mode()
    def preview(self, trajectory: Trajectory) -> NDArray[np.uint8]:
        """The finished image as the UNet last had it, `(H, W, 3)` uint8, decoded by the tiny VAE.

        Only for variants with a `preview_vae`; the plans of others hold no previews.
        """
        vae = self.components[trajectory.variant.name].preview_vae
        if vae is None:
            raise ValueError(f"{trajectory.variant.name}: has no VAE for previews")
        return self._decoder.preview(vae, trajectory)

    @name_memory_errors
    @torch.inference_mode()
    def flagged(self, pixels: NDArray[np.uint8]) -> list[bool]:
        """Which of the pictures, `(B, H, W, 3)` uint8, the safety checker flags; none without one.

        For the thread that decodes.
        """
        if self._safety_checker is None:
            return [False] * len(pixels)
        return self._safety_checker.flagged(pixels)

    def free_memory(self) -> None:
        """Give torch's unused blocks back to the device."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _prepare(self, variant: Variant) -> UNetCall:
        parts = self.components[variant.name]
        return prepare_unet(
            name=variant.unet.folder,
            unet=parts.unet,
            size=(variant.default_size_px // 8, variant.default_size_px // 8),
            tokens=parts.tokenizer.model_max_length,
            optimisations=self.optimisations,
            readiness=self.readiness,
        )
