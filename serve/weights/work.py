"""How much work a picture is: floating-point operations, from the shapes of the weights.

The shapes stand in the headers of the files, so that neither torch nor the weights are needed.
"""

import json
from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path

from safetensors import safe_open

from ..variants import Component, Variant

_TOKENS = 77
_MULTIPLY_AND_ADD = 2
# AutoencoderTiny's own, where a configuration leaves them out.
_TINY_BLOCKS = (3, 3, 3, 1)
_Shapes = dict[str, tuple[int, ...]]


def picture_flop(folder: Path, variant: Variant) -> float:
    """Operations of one picture with the variant's defaults: its UNet calls, and decoding.

    What is neither a matrix product nor a convolution is left out: it is under 1 %.
    """
    side = variant.default_size_px // 8
    calls = variant.default_steps * (2 if variant.guidance_scale > 1 else 1)
    return calls * unet_flop(folder, variant.unet, side) + decoder_flop(folder, variant.vae, side)


def unet_flop(folder: Path, unet: Component, side: int) -> float:
    """Operations of one call for one latent picture of `side` by `side`."""
    shapes = _shapes(folder / unet.folder)
    levels = 1 + max(int(name.split(".")[1]) for name in shapes if name.startswith("down_blocks."))
    total = 0.0
    for name, shape in shapes.items():
        parts = name.split(".")
        level, place = 0, parts[0]
        if place == "down_blocks":
            level = int(parts[1]) + (parts[2] == "downsamplers")
        elif place == "mid_block":
            level = levels - 1
        elif place == "up_blocks":
            level = levels - 1 - int(parts[1]) - (parts[2] == "upsamplers")
        pixels = (side / 2**level) ** 2
        if "time_emb" in name:  # `time_embedding`, and each block's `time_emb_proj`.
            total += _product(shape, 1)
        elif parts[-2] in ("to_k", "to_v") and parts[-3] == "attn2":
            total += _product(shape, _TOKENS)
        else:
            total += _product(shape, pixels)
        if parts[-2] == "to_q":
            others = pixels if parts[-3] == "attn1" else _TOKENS
            total += _attention(shape[0], pixels, others)
    return total


def decoder_flop(folder: Path, vae: Component, side: int) -> float:
    """Operations of decoding one latent picture of `side` by `side`."""
    shapes = _shapes(folder / vae.folder)
    if vae.component_class == "AutoencoderTiny":
        config = json.loads((folder / vae.folder / "config.json").read_text(encoding="utf-8"))
        doubled = list(_doubled(config.get("num_decoder_blocks", _TINY_BLOCKS)))
        return sum(
            _product(shape, (side * 2 ** doubled[int(name.split(".")[2])]) ** 2)
            for name, shape in shapes.items()
            if name.startswith("decoder.layers.")
        )
    levels = max(int(name.split(".")[2]) for name in shapes if name.startswith("decoder.up_blocks"))
    total = 0.0
    for name, shape in shapes.items():
        parts = name.split(".")
        if parts[0] not in ("decoder", "post_quant_conv"):
            continue
        level = 0
        if parts[1] == "up_blocks":
            level = int(parts[2]) + (parts[3] == "upsamplers")
        elif parts[1] == "conv_out":
            level = levels
        pixels = (side * 2**level) ** 2
        total += _product(shape, pixels)
        if parts[-2] == "to_q":
            total += _attention(shape[0], pixels, pixels)
    return total


def _shapes(component_dir: Path) -> _Shapes:
    """The shapes of the weights of convolutions and linear layers, by name."""
    found: _Shapes = {}
    for path in component_dir.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no dictionary
                shape = tuple(tensors.get_slice(name).get_shape())
                if name.endswith(".weight") and len(shape) > 1:
                    found[name] = shape
    return found


def _product(shape: tuple[int, ...], pixels: float) -> float:
    """Of a weight with each of so many pixels, or tokens."""
    return _MULTIPLY_AND_ADD * prod(shape) * pixels


def _attention(channels: int, queries: float, keys: float) -> float:
    """The two products of attention, of queries with keys and of their weights with values."""
    return 2 * _MULTIPLY_AND_ADD * channels * queries * keys


def _doubled(blocks_of_levels: Sequence[int]) -> Iterator[int]:
    """How often the picture's side has been doubled at each of AutoencoderTiny's layers."""
    yield from (0, 0)  # A convolution and its activation.
    last = len(blocks_of_levels) - 1
    for level, blocks in enumerate(blocks_of_levels):
        yield from [level] * blocks
        if level < last:
            yield level  # The doubling itself.
        yield min(level + 1, last)
