"""The published architectures with random values, for timing, load tests and image builds.

The time of a UNet call depends on the weights' shapes, not their values, except for zeros and
denormals, which default initialisation avoids.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from ..variants import Component
from .saving import save_fp16

_DIFFUSERS_CLASSES = {
    "UNet2DConditionModel": UNet2DConditionModel,
    "AutoencoderKL": AutoencoderKL,
    "AutoencoderTiny": AutoencoderTiny,
}


def write_random_components(
    folder: Path,
    architecture: Path,
    components: dict[str, Component],
    seed: int = 0,
    begin: Callable[[str], object] = lambda name: None,
) -> None:
    """Write components with seeded random values, fp16, into a family folder.

    Values are drawn on the CPU with PyTorch's default initialisation, each component from the
    same seed, so one version of PyTorch makes the same files on every machine.

    Args:
        folder: the family folder; created if absent, its components are replaced.
        architecture: a family folder with configurations, tokenizer and scheduler.
        components: by sub-folder (`Family.components`).
        seed: of the random values.
        begin: called with each component's sub-folder before it is written.
    """
    for name, component in components.items():
        begin(name)
        shutil.rmtree(folder / name, ignore_errors=True)
        if component.has_weights:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model = build_model(component, architecture / component.architecture)
            save_fp16(model, folder / name)
        else:
            shutil.copytree(architecture / component.architecture, folder / name)


def build_model(component: Component, component_dir: Path) -> Any:
    """An initialised model from its `config.json`, on the current default device."""
    if component.component_class == "CLIPTextModel":
        return CLIPTextModel(CLIPTextConfig.from_pretrained(component_dir))
    config = json.loads((component_dir / "config.json").read_text())
    return _DIFFUSERS_CLASSES[component.component_class].from_config(config)
