"""Parts that don't fit together are refused before anything is loaded."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from serve.catalogue import MINIATURE
from serve.errors import WeightsError
from serve.miniature import WEIGHTS_DIR
from serve.weights.check import check_family
from serve.weights.fit import check_fit

VARIANT = MINIATURE.variants["distilled-tiny-vae"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The miniature's configurations."""
    for component in VARIANT.components.values():
        (tmp_path / component.folder).mkdir(exist_ok=True)
        for path in (WEIGHTS_DIR / component.folder).glob("*config.json"):
            shutil.copy(path, tmp_path / component.folder)
    return tmp_path


def change(folder: Path, file: str, **changes: Any) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("variant", MINIATURE.variants)
def test_the_shipped_variants_fit(variant: str) -> None:
    check_fit(WEIGHTS_DIR, MINIATURE.variants[variant])


@pytest.mark.parametrize(
    ("file", "changes", "complaint"),
    [
        pytest.param(
            "unet_distilled/config.json",
            {"cross_attention_dim": 1024},
            "cross_attention_dim is 1024; text_encoder has 96",
            id="another-family",
        ),
        pytest.param(
            "unet_distilled/config.json", {"in_channels": 9}, "in_channels is 9", id="inpainting"
        ),
        pytest.param(
            "unet_distilled/config.json", {"out_channels": 8}, "out_channels is 8", id="variance"
        ),
        pytest.param(
            "unet_distilled/config.json",
            {"addition_embed_type": "text_time"},
            "addition_embed_type is 'text_time'; it must be null",
            id="sdxl",
        ),
        pytest.param(
            "unet_distilled/config.json",
            {"time_cond_proj_dim": 256},
            "time_cond_proj_dim is 256; it must be null",
            id="guidance-embedded",
        ),
        pytest.param(
            "unet_distilled/config.json",
            {"_class_name": "UNet3DConditionModel"},
            "holds a UNet3DConditionModel; UNet2DConditionModel is expected",
            id="class",
        ),
        pytest.param(
            "vae_tiny/config.json",
            {"_class_name": "AutoencoderKL"},
            "holds a AutoencoderKL; AutoencoderTiny is expected",
            id="class-of-the-vae",
        ),
        pytest.param(
            "vae_tiny/config.json", {"latent_channels": 16}, "latent_channels is 16", id="channels"
        ),
        pytest.param(
            "vae_tiny/config.json",
            {"decoder_block_out_channels": [16, 16, 16]},
            "makes a side 4 times as long; it must be 8 times",
            id="factor",
        ),
        pytest.param(
            "text_encoder/config.json",
            {"max_position_embeddings": 248},
            "max_position_embeddings is 248; it must be 77",
            id="longer-prompts",
        ),
        pytest.param(
            "scheduler/scheduler_config.json",
            {"prediction_type": "sample"},
            "prediction_type is 'sample'; allowed: epsilon, v_prediction",
            id="prediction",
        ),
        pytest.param(
            "scheduler/scheduler_config.json",
            {"rescale_betas_zero_snr": True},
            "rescale_betas_zero_snr is true",
            id="zero-snr",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    folder: Path, file: str, changes: dict[str, Any], complaint: str
) -> None:
    check_fit(folder, VARIANT)
    change(folder, file, **changes)
    with pytest.raises(WeightsError, match=complaint) as caught:
        check_fit(folder, VARIANT)
    assert caught.value.message.startswith(f"{VARIANT.name}: {folder / file}: ")


def test_the_folders_check_includes_it(tmp_path: Path) -> None:
    folder = tmp_path / "family"
    shutil.copytree(WEIGHTS_DIR, folder)
    change(folder, "unet_distilled/config.json", in_channels=9)
    with pytest.raises(WeightsError, match="in_channels is 9"):
        check_family(folder, MINIATURE, ["distilled"])


def test_v_prediction_fits(folder: Path) -> None:
    change(folder, "scheduler/scheduler_config.json", prediction_type="v_prediction")
    check_fit(folder, VARIANT)
