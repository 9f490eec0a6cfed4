"""A variant of the miniature as diffusers' own StableDiffusionPipeline, for measuring and sheets.

The serving code does not pass here: it reads the same folders with its own loader.
"""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from transformers import CLIPTextModel, CLIPTokenizer

VARIANTS: dict[str, tuple[str, str]] = {
    "original": ("unet", "vae"),
    "distilled": ("unet_distilled", "vae"),
    "distilled-tiny-vae": ("unet_distilled", "vae_tiny"),
}
"""Folders of UNet and VAE; text encoder, tokenizer and scheduler are shared."""

GUIDANCE_SCALE = 2.0
"""The family's default. So small a model is over-driven from about 4: golden turns yellow."""
STEPS = 25


def load_variant(weights: Path, variant: str) -> StableDiffusionPipeline:
    """Assemble a variant from the family's folders: fp16 on disk, fp32 in memory."""
    unet, vae = VARIANTS[variant]
    stored = {"variant": "fp16", "dtype": torch.float32, "use_safetensors": True}
    autoencoder = AutoencoderTiny if vae == "vae_tiny" else AutoencoderKL
    pipeline = StableDiffusionPipeline(
        vae=autoencoder.from_pretrained(weights / vae, **stored),
        text_encoder=CLIPTextModel.from_pretrained(weights / "text_encoder", **stored),
        tokenizer=CLIPTokenizer.from_pretrained(weights / "tokenizer"),
        unet=UNet2DConditionModel.from_pretrained(weights / unet, **stored),
        scheduler=PNDMScheduler.from_pretrained(weights / "scheduler"),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw_pictures(
    pipeline: StableDiffusionPipeline,
    prompts: list[str],
    seeds: list[int],
    guidance_scale: float = GUIDANCE_SCALE,
    steps: int = STEPS,
    at_once: int = 10,
) -> NDArray[np.uint8]:
    """One picture for each prompt and seed: (N, 96, 96, 3), uint8."""
    pictures: list[NDArray[np.uint8]] = []
    for start in range(0, len(prompts), at_once):
        part = slice(start, start + at_once)
        made = pipeline(
            prompts[part],
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[part]],
            output_type="pil",
        ).images
        pictures += [np.asarray(image, dtype=np.uint8) for image in made]
    return np.stack(pictures)


def parameter_count(folder: Path) -> int:
    """Number of values in a folder's safetensors files, read from their headers alone."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        total += sum(prod(v["shape"]) for k, v in header.items() if k != "__metadata__")
    return total
