"""Every component's configuration: the real family's shapes, made small.

What the real family fixes is kept: three variants from one text encoder, VAE factor 8, four
latent channels, a UNet of two resnets a block with cross-attention and a mid block, its student
with one pair out of every block and no mid block, PNDM over 1,000 steps.
"""

from __future__ import annotations

from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    PNDMScheduler,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .drawing import SIZE_PX
from .tokenizer import MAX_LENGTH

LATENT_CHANNELS = 4
LATENT_SIZE = SIZE_PX // 8
SCALING_FACTOR = 0.18215
"""Stable Diffusion v1's; the KL autoencoder's weights are folded to deserve it."""

_TEXT_WIDTH = 96
_WIDTHS = (48, 80, 112)
_GROUPS = 8


def scheduler() -> PNDMScheduler:
    """Stable Diffusion v1's scheduler, value for value."""
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        num_train_timesteps=1000,
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
        prediction_type="epsilon",
    )


def text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Two layers of CLIP's text model over the miniature's own vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            projection_dim=_TEXT_WIDTH,
            intermediate_size=4 * _TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _unet(layers_per_block: int, mid_block_type: str | None) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        layers_per_block=layers_per_block,
        block_out_channels=_WIDTHS,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type=mid_block_type,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=_TEXT_WIDTH,
        # Despite its name the number of heads, as in Stable Diffusion v1 (8 there).
        attention_head_dim=4,
        norm_num_groups=_GROUPS,
    )


def unet() -> UNet2DConditionModel:
    """The teacher: two resnet-and-attention pairs a block, and a mid block."""
    return _unet(2, "UNetMidBlock2DCrossAttn")


def unet_distilled() -> UNet2DConditionModel:
    """The student, with bk-sdm-small's attributes: one pair a block, no mid block."""
    return _unet(1, None)


def vae() -> AutoencoderKL:
    """The KL autoencoder, wide enough to cost what the real one costs beside its UNet."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 64, 64),
        layers_per_block=2,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=_GROUPS,
        sample_size=SIZE_PX,
        scaling_factor=SCALING_FACTOR,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )


def vae_tiny() -> AutoencoderTiny:
    """The tiny autoencoder. Four decoder entries also tell the pipeline: factor 8."""
    return AutoencoderTiny(
        encoder_block_out_channels=(16, 16, 16, 16),
        decoder_block_out_channels=(16, 16, 16, 16),
        latent_channels=LATENT_CHANNELS,
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(4, 4, 4, 1),
        scaling_factor=1.0,
    )
