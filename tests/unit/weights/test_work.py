"""The work of a picture, against what torch counts."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from serve.catalogue import MINIATURE, SD_V1
from serve.miniature import WEIGHTS_DIR
from serve.variants import Component
from serve.weights.layout import architecture_dir
from serve.weights.random_values import build_model, write_random_components
from serve.weights.work import decoder_flop, picture_flop, unet_flop

SIDE = 12


def counted(component: Component, *inputs: tuple[int, ...]) -> int:
    """What torch counts for a UNet's call, or a VAE's decoding, of tensors of these shapes."""
    with torch.device("meta"):
        model = build_model(component, WEIGHTS_DIR / component.folder)
        latents, *states = map(torch.randn, inputs)
    with FlopCounterMode(display=False) as counter:
        model(latents, torch.tensor([1], device="meta"), *states) if states else model.decode(
            latents
        )
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["original", "distilled", "distilled-tiny-vae"])
def test_it_is_what_torch_counts(name: str) -> None:
    variant = MINIATURE.variants[name]
    unet = counted(variant.unet, (1, 4, SIDE, SIDE), (1, 77, 96))
    assert unet_flop(WEIGHTS_DIR, variant.unet, SIDE) == pytest.approx(unet, rel=0.01)
    decoder = counted(variant.vae, (1, 4, SIDE, SIDE))
    assert decoder_flop(WEIGHTS_DIR, variant.vae, SIDE) == pytest.approx(decoder, rel=0.01)


def test_the_variants_that_are_served_unasked_stand_in_its_order() -> None:
    variants = (MINIATURE.variants[name] for name in MINIATURE.default_variants)
    by_work = [picture_flop(WEIGHTS_DIR, variant) for variant in variants]
    assert by_work == sorted(by_work, reverse=True)


def test_it_counts_steps_and_guidance() -> None:
    variant = MINIATURE.variants["original"]
    unet = unet_flop(WEIGHTS_DIR, variant.unet, SIDE)
    decoder = decoder_flop(WEIGHTS_DIR, variant.vae, SIDE)
    assert picture_flop(WEIGHTS_DIR, variant) == pytest.approx(50 * unet + decoder)
    few = MINIATURE.variants["original-lcm"]
    assert picture_flop(WEIGHTS_DIR, few) == pytest.approx(4 * unet + decoder)


def test_a_tiny_vae_whose_configuration_names_no_blocks_has_diffusers_own(tmp_path: Path) -> None:
    vae = SD_V1.variants["distilled-tiny-vae"].vae
    write_random_components(tmp_path, architecture_dir("sd-v1"), {vae.folder: vae})
    expected = decoder_flop(tmp_path, vae, SIDE)
    path = tmp_path / vae.folder / "config.json"
    config = json.loads(path.read_text())
    assert config.pop("num_decoder_blocks") == [3, 3, 3, 1]
    path.write_text(json.dumps(config))
    assert decoder_flop(tmp_path, vae, SIDE) == expected
