"""The shipped miniature: complete, small, readable by everybody, in the real family's shape."""

import json
import stat

import pytest
import torch

from serve.catalogue import MINIATURE
from serve.miniature import WEIGHTS_DIR
from serve.weights.random_values import build_model


def _config(folder):
    return json.loads((WEIGHTS_DIR / folder / "config.json").read_text())


def test_the_weights_are_at_most_40_mb():
    assert sum(path.stat().st_size for path in WEIGHTS_DIR.rglob("*.safetensors")) <= 40e6


def test_everybody_may_read_the_files():
    modes = {stat.S_IMODE(p.stat().st_mode) & 0o444 for p in WEIGHTS_DIR.rglob("*") if p.is_file()}
    assert modes == {0o444}


def test_no_configuration_names_a_path():
    for path in WEIGHTS_DIR.rglob("*.json"):
        if path.name not in ("tokenizer.json", "manifest.json"):
            assert "_name_or_path" not in path.read_text()
            assert "/" not in path.read_text().replace("</w>", "")


def test_the_student_has_at_most_60_percent_of_the_teachers_parameters():
    components = MINIATURE.components(MINIATURE.variants)
    with torch.device("meta"):
        teacher, student = (
            build_model(components[name], WEIGHTS_DIR / name).num_parameters()
            for name in ("unet", "unet_distilled")
        )
    assert 0.4 < student / teacher <= 0.6


def test_the_student_has_bk_sdm_smalls_shape():
    teacher, student = _config("unet"), _config("unet_distilled")
    assert (teacher["layers_per_block"], student["layers_per_block"]) == (2, 1)
    assert student["mid_block_type"] is None
    assert teacher["block_out_channels"] == student["block_out_channels"]


def test_the_smaller_student_has_bk_sdm_tinys_shape():
    student, smaller = _config("unet_distilled"), _config("unet_bk_tiny")
    for name in ("block_out_channels", "down_block_types"):
        assert smaller[name] == student[name][:-1]
    assert smaller["up_block_types"] == student["up_block_types"][1:]
    without = ("block_out_channels", "down_block_types", "up_block_types")
    assert {k: v for k, v in smaller.items() if k not in without} == {
        k: v for k, v in student.items() if k not in without
    }


def test_both_vaes_shrink_by_eight_and_swap_by_their_scaling_factors():
    assert len(_config("vae")["block_out_channels"]) == 4
    assert len(_config("vae_tiny")["decoder_block_out_channels"]) == 4
    assert _config("vae")["scaling_factor"] == pytest.approx(0.18215)
    assert _config("vae_tiny")["scaling_factor"] == 1.0


def test_the_scheduler_is_stable_diffusion_v1s():
    config = json.loads((WEIGHTS_DIR / "scheduler" / "scheduler_config.json").read_text())
    expected = {
        "_class_name": "PNDMScheduler",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
    }
    assert expected.items() <= config.items()
