"""Whether the parts of a variant fit together, and are what the pipelines can run.

Reads configurations only. Parts of other families load without a complaint, and draw noise or
fail at the first step.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from ..variants import Component, Variant
from .layout import config_name

_LATENT_CHANNELS = 4
_TOKENS = 77
_PREDICTION_TYPES = ("epsilon", "v_prediction")
# What a UNet may take besides latents, a timestep and a prompt; nothing here gives it that.
_EXTRA_INPUTS = (
    "addition_embed_type",
    "class_embed_type",
    "encoder_hid_dim_type",
    "num_class_embeds",
    "time_cond_proj_dim",
)


def check_fit(folder: Path, variant: Variant) -> None:
    """Compare the configurations of a variant's components, which must lie in the folder.

    Raises:
        WeightsError: names the component's folder, what it has, and what fits.
    """
    configs = {
        name: _read(folder / component.folder / config_name(component))
        for name, component in variant.components.items()
    }
    for name, complaint in _complaints(variant, configs):
        component = variant.components[name]
        path = folder / component.folder / config_name(component)
        raise WeightsError(f"{variant.name}: {path}: {complaint}")


def wrong_class(component: Component, config: dict[str, Any]) -> str | None:
    """Whether a configuration is that of another class than the component's, in words.

    A scheduler's is read whatever its class.
    """
    given = config.get("_class_name", component.component_class)
    if component.component_class == "PNDMScheduler" or given == component.component_class:
        return None
    return f"holds a {given}; {component.component_class} is expected"


def _read(path: Path) -> dict[str, Any]:
    # `check_family` has seen to it that this is a JSON object.
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _complaints(variant: Variant, configs: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Each component, by diffusers' name, that doesn't fit, and why."""
    unet, text_encoder = configs["unet"], configs["text_encoder"]
    for name in configs:
        if complaint := wrong_class(variant.components[name], configs[name]):
            yield name, complaint
    for name in ("in_channels", "out_channels"):
        if (given := unet.get(name, _LATENT_CHANNELS)) != _LATENT_CHANNELS:
            hint = "; this is a UNet for inpainting, and masks need none here" if given == 9 else ""
            yield "unet", f"{name} is {given}; it must be {_LATENT_CHANNELS}{hint}"
    width = text_encoder.get("hidden_size", 512)
    if (given := unet.get("cross_attention_dim", 1280)) != width:
        yield (
            "unet",
            f"cross_attention_dim is {given}; {variant.text_encoder.folder} has {width}: "
            "a UNet and a text encoder of different families",
        )
    for name in _EXTRA_INPUTS:
        if unet.get(name) is not None:
            yield "unet", f"{name} is {unet[name]!r}; it must be null, as in Stable Diffusion v1"
    if (tokens := text_encoder.get("max_position_embeddings", _TOKENS)) != _TOKENS:
        yield "text_encoder", f"max_position_embeddings is {tokens}; it must be {_TOKENS}"
    for name in ("vae", "preview_vae"):
        if name in configs and (complaint := _of_vae(configs[name])):
            yield name, complaint
    scheduler = configs["scheduler"]
    predicts = scheduler.get("prediction_type", "epsilon")
    if predicts not in _PREDICTION_TYPES:
        allowed = ", ".join(_PREDICTION_TYPES)
        yield "scheduler", f"prediction_type is {predicts!r}; allowed: {allowed}"
    if scheduler.get("rescale_betas_zero_snr"):
        yield (
            "scheduler",
            "rescale_betas_zero_snr is true; not all of the schedulers that requests may name can "
            "do that, so that it is refused",
        )


def _of_vae(config: dict[str, Any]) -> str | None:
    if (channels := config.get("latent_channels", _LATENT_CHANNELS)) != _LATENT_CHANNELS:
        return f"latent_channels is {channels}; it must be {_LATENT_CHANNELS}"
    blocks = config.get("block_out_channels") or config.get("decoder_block_out_channels") or ()
    if blocks and (factor := 2 ** (len(blocks) - 1)) != 8:
        return f"makes a side {factor} times as long; it must be 8 times"
    return None
