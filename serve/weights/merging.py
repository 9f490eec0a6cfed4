"""Merges a LoRA into a UNet when weights are fetched, so that servers read an ordinary folder."""

from pathlib import Path

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from safetensors.torch import load_file

from ..errors import WeightsError
from .layout import precision_suffix
from .saving import save_fp16


def merge_lora(base_dir: Path, lora_file: Path, component_dir: Path) -> None:
    """Write the UNet of `base_dir` with the LoRA added at full strength, as fp16.

    Merged in single precision, so that nothing is rounded twice.

    Raises:
        WeightsError: the LoRA has no weights for this UNet, or peft isn't installed.
    """
    unet = UNet2DConditionModel.from_pretrained(
        base_dir,
        dtype=torch.float32,
        variant=precision_suffix(base_dir),
        use_safetensors=True,
        local_files_only=True,
    )
    try:
        lora, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(
            load_file(lora_file), unet_config=unet.config
        )
        if not any(name.startswith("unet.") for name in lora):
            raise ValueError("it has no weights for a UNet")
        StableDiffusionLoraLoaderMixin.load_lora_into_unet(lora, alphas, unet)
    except ImportError as fault:
        raise WeightsError(f"peft: is needed to merge a LoRA: {fault}") from None
    except (ValueError, RuntimeError, KeyError) as fault:
        reason = " ".join(str(fault).split())
        raise WeightsError(f"{lora_file}: doesn't fit the UNet of {base_dir}: {reason}") from None
    unet.fuse_lora()
    unet.unload_lora()
    save_fp16(unet, component_dir)
