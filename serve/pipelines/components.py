"""A family folder's components on a device, and what the pipelines use of each.

diffusers and transformers are typed in parts only, so the protocols here say which of their
attributes and arguments matter. Components that several variants share are loaded once.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from ..variants import Component, ComponentClass, Variant
from ..weights.layout import precision_suffix

_CLASSES: dict[ComponentClass, Any] = {
    "CLIPTokenizer": CLIPTokenizer,
    "CLIPTextModel": CLIPTextModel,
    "PNDMScheduler": PNDMScheduler,
    "UNet2DConditionModel": UNet2DConditionModel,
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}


class Model(Protocol):
    """A model of diffusers or transformers: a `torch.nn.Module` on one device, in one dtype."""

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""

    def to(self, *, memory_format: torch.memory_format) -> object:
        """Lay its weights out anew, in place."""


class UNetConfig(Protocol):
    """`UNet2DConditionModel.config`."""

    in_channels: int
    cross_attention_dim: int


class UNet(Model, Protocol):
    """`UNet2DConditionModel`: predicts noise."""

    config: UNetConfig

    def __call__(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        *,
        return_dict: Literal[False],
    ) -> tuple[torch.Tensor]:
        """Noise `(B, 4, H/8, W/8)` for latents of that shape, timesteps `(B,)`, `(B, 77, D)`."""


class VaeConfig(Protocol):
    """The part of a VAE's `config` that matters here."""

    latent_channels: int
    scaling_factor: float


class Vae(Model, Protocol):
    """`AutoencoderKL` or `AutoencoderTiny`."""

    config: VaeConfig

    def encode(self, x: torch.Tensor, return_dict: Literal[False]) -> tuple[Any]:
        """Pixels `(B, 3, H, W)` in [-1, 1] to latents, or to a distribution of latents."""

    def decode(self, z: torch.Tensor, return_dict: Literal[False]) -> tuple[torch.Tensor]:
        """Latents `(B, 4, H/8, W/8)`, over the scaling factor, to `(B, 3, H, W)` in [-1, 1]."""


class TextEncoder(Model, Protocol):
    """`CLIPTextModel`."""

    def __call__(self, input_ids: torch.Tensor) -> Sequence[torch.Tensor]:
        """Token ids `(1, 77)` to hidden states `(1, 77, D)`, the first of the results."""


class Tokenizer(Protocol):
    """`CLIPTokenizer`."""

    model_max_length: int

    def __call__(self, text: str, **options: object) -> Any:
        """A `BatchEncoding` with `input_ids`."""


class Scheduler(Protocol):
    """Any of diffusers' schedulers."""

    config: Mapping[str, Any]
    timesteps: torch.Tensor
    init_noise_sigma: float | torch.Tensor
    alphas_cumprod: torch.Tensor

    def add_noise(
        self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
    ) -> torch.Tensor:
        """Samples as noisy as before the step of these timesteps."""

    def set_begin_index(self, begin_index: int) -> None:
        """Choose the first step; PNDM's and DDIM's schedulers have no such method."""

    def set_timesteps(self, num_inference_steps: int, device: str) -> None:
        """Choose the timesteps."""

    def scale_model_input(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """The latents as the UNet expects them."""

    def step(
        self,
        model_output: torch.Tensor,
        timestep: torch.Tensor,
        sample: torch.Tensor,
        *,
        return_dict: Literal[False],
        **options: Any,
    ) -> tuple[torch.Tensor, ...]:
        """The latents after one step, first of the results."""


@dataclass(frozen=True)
class Components:
    """A variant's components by diffusers' names, and the VAE of its previews."""

    tokenizer: Tokenizer
    text_encoder: TextEncoder
    scheduler: Scheduler
    unet: UNet
    vae: Vae
    preview_vae: Vae | None = None


def load_components(
    variants: Iterable[Variant], folder: Path, device: torch.device, dtype: torch.dtype
) -> dict[str, Components]:
    """Read variants from a family folder; by variant name, shared components as one object."""
    loaded: dict[str, Any] = {}

    def load(component: Component) -> Any:
        if component.folder not in loaded:
            loaded[component.folder] = _load(component, folder, device, dtype)
        return loaded[component.folder]

    return {
        variant.name: Components(
            **{name: load(component) for name, component in variant.components.items()}
        )
        for variant in variants
    }


def _load(component: Component, folder: Path, device: torch.device, dtype: torch.dtype) -> Any:
    component_class = _CLASSES[component.component_class]
    component_dir = folder / component.folder
    if not component.has_weights:
        return component_class.from_pretrained(component_dir, local_files_only=True)
    model = component_class.from_pretrained(
        component_dir,
        dtype=dtype,
        variant=precision_suffix(component_dir),
        use_safetensors=True,
        local_files_only=True,
    )
    return model.to(device).eval()
