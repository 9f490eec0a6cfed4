"""The engine's `Denoiser` over diffusers: begin, one step, decode, preview.

Models and schedulers are driven one denoising step at a time with a `(B,)` tensor of timesteps, so
that images with different step counts, guidance scales and schedulers can share a UNet call. A
picture is the one that `StableDiffusionPipeline` makes with the same arguments.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ..generation import Generation, Plan
from ..replica_info import ReplicaInfo, public_reason
from ..variants import Variant
from .compile import prepare_decoder, prepare_text_encoder, prepare_unet, use_channels_last
from .components import Components, Vae, load_components
from .cuda_graphs import Call
from .devices import (
    DeviceName,
    StepClock,
    clock_s,
    device_name,
    measuring,
    memory,
    name_memory_errors,
    resolve_device,
    to_device,
)
from .edits import EncodedSource, paste, source_pixels, start
from .embeddings import PromptEncoder
from .optimisations import DEFAULTS, Optimisations
from .readiness import Readiness
from .trajectories import Trajectory, guide, move_tables, new_scheduler, plan
from .vae import Decoder

if TYPE_CHECKING:
    from .safety import SafetyChecker  # Imported only when used: older transformers can't.


class Pipeline:
    """One or several variants, loaded and warm: an `engine.denoiser.Denoiser`.

    `components` holds each variant's models by name.
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
        self._variants = {variant.name: variant for variant in variants}
        unet = components[variants[0].name].unet
        self.device, self.dtype = unet.device, unet.dtype
        self._clock = StepClock(self.device)
        self._safety_checker = safety_checker
        if optimisations.channels_last:
            use_channels_last(
                model
                for parts in components.values()
                for model in (parts.unet, parts.vae, parts.preview_vae)
                if model is not None
            )
        self._encoders: dict[tuple[str, str], PromptEncoder] = {}
        text_encoders: dict[str, Callable[[torch.Tensor], Sequence[torch.Tensor]]] = {}
        for variant in variants:
            parts, folder = components[variant.name], variant.text_encoder.folder
            if folder not in text_encoders:
                tokens = parts.tokenizer.model_max_length
                text_encoders[folder] = prepare_text_encoder(
                    folder, parts.text_encoder, tokens, optimisations, readiness
                )
            if _reads(variant) not in self._encoders:
                self._encoders[_reads(variant)] = PromptEncoder(
                    parts.tokenizer,
                    text_encoders[folder],
                    self.device,
                    optimisations.embedding_cache,
                )
        self._unets: dict[str, Call] = {}
        decoders: dict[Vae, Call] = {}
        for variant in variants:
            parts, side = components[variant.name], variant.default_size_px // 8
            if (folder := variant.unet.folder) not in self._unets:
                tokens = parts.tokenizer.model_max_length
                self._unets[folder] = prepare_unet(
                    folder, parts.unet, (side, side), tokens, optimisations, readiness
                )
            if parts.vae not in decoders:
                decoders[parts.vae] = prepare_decoder(
                    variant.vae.folder, parts.vae, (side, side), optimisations, readiness
                )
        self._decoder = Decoder(self.device, decoders)

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
        """Read variants of one family from a folder that `weights.check.check_family` has passed.

        Shared components are loaded once, and so is the safety checker, if asked for. On CUDA it
        returns when what can be is compiled and recorded.

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
        """Hits and misses of the embedding cache so far."""
        lookups = [encoder.lookups for encoder in self._encoders.values()]
        return sum(hits for hits, _ in lookups), sum(misses for _, misses in lookups)

    def info(self) -> ReplicaInfo:
        """What it runs on, the memory that it takes now, and what `readiness` reports."""
        return ReplicaInfo(
            device_name(self.device),
            memory(self.device),
            tuple(self.readiness.switched_on),
            {part: public_reason(why) for part, why in self.readiness.left_off.items()},
            dict(self.readiness.seconds),
        )

    def clock_s(self) -> float:
        """A clock for timing steps; see `devices.clock_s`."""
        return clock_s(self.device)

    def measuring(self) -> AbstractContextManager[None]:
        """A context for timing steps; see `devices.measuring`."""
        return measuring(self.device)

    def plan(self, generation: Generation) -> Plan:
        """The work of a request; see `trajectories.plan`."""
        return plan(generation, self._variants[generation.variant])

    @name_memory_errors
    @torch.inference_mode()
    def prepare(self, generation: Generation) -> EncodedSource | None:
        """Encode the picture that a request edits, if it does."""
        if generation.source is None:
            return None
        vae = self.components[generation.variant].vae
        return self._decoder.encode(vae, source_pixels(generation))

    @name_memory_errors
    @torch.inference_mode()
    def begin(
        self, generation: Generation, prepared: EncodedSource | None = None
    ) -> tuple[list[Trajectory], tuple[str, ...]]:
        """Encode the prompts and draw the noise: one trajectory per seed, and warnings.

        Each image's noise comes from a CPU generator with its own seed, so it depends neither on
        the device nor on other images. An edit needs what `prepare` made of it.
        """
        variant = self._variants[generation.variant]
        parts, encoder = self.components[variant.name], self._encoders[_reads(variant)]
        prompt_embeds, warnings = encoder.encode("prompt", generation.prompt)
        negative_embeds = None
        if generation.guided:
            negative_embeds, cut = encoder.encode("negative_prompt", generation.negative_prompt)
            warnings = warnings + cut
        size = generation.height_px // 8, generation.width_px // 8
        if prepared is not None:
            self._clock.wait_for(prepared.ready, prepared.tensors)
        trajectories = []
        for seed in generation.seeds:
            scheduler = new_scheduler(
                generation.scheduler,
                parts.scheduler.config,
                generation.num_inference_steps,
            )
            generator = torch.Generator("cpu").manual_seed(seed)
            kept = None
            if prepared is not None:
                latents, timesteps, kept = start(generation, prepared, generator, scheduler)
            else:
                noise = torch.randn(
                    (1, parts.unet.config.in_channels, *size), generator=generator, dtype=self.dtype
                )
                latents = to_device(noise, self.device) * scheduler.init_noise_sigma
                timesteps = list(scheduler.timesteps)
            move_tables(scheduler, self.device)
            trajectories.append(
                Trajectory(
                    variant=variant,
                    latents=latents,
                    prompt_embeds=prompt_embeds,
                    negative_embeds=negative_embeds,
                    guidance_scale=generation.guidance_scale,
                    scheduler=scheduler,
                    generator=generator,
                    timesteps=timesteps,
                    ready=None,
                    generation=generation,
                    kept=kept,
                )
            )
        ready = self._clock.mark()
        for trajectory in trajectories:
            trajectory.ready = ready
        return trajectories, tuple(warnings)

    @name_memory_errors
    @torch.inference_mode()
    def step(self, trajectories: list[Trajectory]) -> None:
        """Advance every trajectory, all of one `group`, by one step of its own in one UNet call.

        Step counts, guidance scales, schedulers and prompts may differ, and so may variants that
        share a UNet. With `deterministic` each trajectory has a call to itself. On CUDA it returns
        when the previous step is done: launches stay one step ahead.
        """
        if self.optimisations.deterministic:
            # Not padded to one size: a row's result may depend on its place in the batch.
            for trajectory in trajectories:
                self._advance([trajectory])
        else:
            self._advance(trajectories)
        self._clock.keep_pace()

    def _advance(self, trajectories: list[Trajectory]) -> None:
        latents = torch.cat([trajectory.model_input for trajectory in trajectories])
        embeds = [trajectory.prompt_embeds for trajectory in trajectories]
        timesteps, scales = to_device(
            torch.tensor(
                [
                    [float(trajectory.timestep) for trajectory in trajectories],
                    [trajectory.guidance_scale for trajectory in trajectories],
                ]
            ),
            self.device,
        )
        negative = [
            trajectory.negative_embeds
            for trajectory in trajectories
            if trajectory.negative_embeds is not None
        ]
        guided = trajectories[0].guided
        if guided:
            # Classifier-free guidance: the unconditional half first, as diffusers has it.
            latents, timesteps = torch.cat([latents] * 2), torch.cat([timesteps] * 2)
            embeds = negative + embeds
        unet = self._unets[trajectories[0].variant.unet.folder]
        (noise,) = unet(latents, timesteps, torch.cat(embeds))
        if guided:
            unconditional, conditional = noise.chunk(2)
            noise = guide(unconditional, conditional, scales)
        # Trajectories change only now, after all the large allocations.
        for trajectory, prediction in zip(trajectories, noise.split(1), strict=True):
            trajectory.advance(prediction, self._clock.mark)

    def decode_slice(self, trajectory: Trajectory) -> int:
        """How many images like this one to decode at once, 1 to 8; on CUDA as memory allows."""
        if self.optimisations.deterministic:
            return 1
        vae = self.components[trajectory.variant.name].vae
        return self._decoder.slice_size(vae, trajectory)

    @name_memory_errors
    @torch.inference_mode()
    def decode(self, trajectories: list[Trajectory]) -> NDArray[np.uint8]:
        """Pixels of finished trajectories of one `decode_group`: `(B, H, W, 3)` uint8.

        Raises:
            NotFinite: one of the images has infinite or NaN values.
        """
        vae = self.components[trajectories[0].variant.name].vae
        pixels = self._decoder.decode(vae, trajectories)
        for index, trajectory in enumerate(trajectories):
            pixels[index] = paste(trajectory.generation, pixels[index])
        return pixels

    @name_memory_errors
    @torch.inference_mode()
    def preview(self, trajectory: Trajectory) -> NDArray[np.uint8]:
        """The finished image as last predicted, `(H, W, 3)` uint8, decoded by the preview VAE.

        Raises:
            ValueError: the variant has none; its plans hold no previews.
        """
        vae = self.components[trajectory.variant.name].preview_vae
        if vae is None:
            raise ValueError(f"{trajectory.variant.name}: has no VAE for previews")
        return paste(trajectory.generation, self._decoder.preview(vae, trajectory))

    @name_memory_errors
    @torch.inference_mode()
    def flagged(self, pixels: NDArray[np.uint8]) -> list[bool]:
        """Which of the pictures, `(B, H, W, 3)` uint8, the safety checker, if any, flags."""
        if self._safety_checker is None:
            return [False] * len(pixels)
        return self._safety_checker.flagged(pixels)

    def free_memory(self) -> None:
        """Release torch's unused blocks."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _reads(variant: Variant) -> tuple[str, str]:
    """Equal for variants that make the same embeddings of a prompt."""
    return variant.tokenizer.folder, variant.text_encoder.folder
