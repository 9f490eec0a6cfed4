"""A family folder's components on a device: each loaded once, however many variants share it."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_pndm import PNDMScheduler
from transformers import CLIPTextModel, CLIPTokenizer

from ..variants import Component, ComponentClass, Variant
from ..weights.layout import precision_suffix

Vae: TypeAlias = AutoencoderKL | AutoencoderTiny

_CLASSES: dict[ComponentClass, Any] = {
    "CLIPTokenizer": CLIPTokenizer,
    "CLIPTextModel": CLIPTextModel,
    "PNDMScheduler": PNDMScheduler,
    "UNet2DConditionModel": UNet2DConditionModel,
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}


@dataclass(frozen=True)
class Components:
    """What a variant is made of, by the names that diffusers gives them, and the preview's VAE."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    scheduler: PNDMScheduler
    unet: UNet2DConditionModel
    vae: Vae
    preview_vae: Vae | None = None


def load_components(
    variants: Iterable[Variant], folder: Path, device: torch.device, dtype: torch.dtype
) -> dict[str, Components]:
    """Read variants from a family folder; by variant name, what they share as one object."""
    loaded: dict[str, Any] = {}

    def once(component: Component) -> Any:
        if component.folder not in loaded:
            loaded[component.folder] = _load(component, folder, device, dtype)
        return loaded[component.folder]

    return {
        variant.name: Components(**{name: once(one) for name, one in variant.components.items()})
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
