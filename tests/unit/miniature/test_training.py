"""The miniature's training: its loop goes on where it broke off, its models fit together."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from serve.miniature.training.architecture import new_model
from serve.miniature.training.fitting import Budget, World, fit
from serve.miniature.training.train_unet import student_from
from serve.miniature.training.train_vae import fold_scaling
from tests.machine import ROOT

_ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def _fit_line(folder, steps):
    """Learn y = 2x; returns the module and how many batches were drawn."""
    torch.manual_seed(0)
    modules = nn.ModuleDict({"line": nn.Linear(1, 1)})
    drawn = []

    def loss_of(generator):
        x = torch.randn(16, 1, generator=generator)
        drawn.append(x)
        return (modules["line"](x) - 2 * x).square().mean()

    fit(_ALONE, "line", modules, loss_of, Budget(steps, 16, 0.1, ema=0.9), folder)
    return modules["line"], len(drawn)


def test_the_loop_learns(tmp_path):
    line, _ = _fit_line(tmp_path, 200)
    assert line.weight.item() == pytest.approx(2, abs=0.1)


def test_a_finished_stage_is_read_and_not_trained_again(tmp_path):
    first, drawn = _fit_line(tmp_path, 50)
    again, drawn_again = _fit_line(tmp_path, 50)
    assert (drawn, drawn_again) == (50, 0)
    assert again.weight.item() == first.weight.item()


def test_a_longer_budget_goes_on_from_the_checkpoint(tmp_path):
    _fit_line(tmp_path, 50)
    _, drawn = _fit_line(tmp_path, 80)
    assert drawn == 30


@pytest.mark.thorough
def test_two_processes_train_a_stage_together(tmp_path):
    options = ["--scale", "0.001", "--stages", "latents", "--processes", "2"]
    command = [sys.executable, "-m", "serve.miniature.training", "--out", str(tmp_path), *options]
    subprocess.run(command, cwd=ROOT, check=True)
    assert torch.load(tmp_path / "latents.pt", weights_only=True)["step"] == 3


def test_the_student_starts_with_the_teachers_first_and_last_pairs():
    teacher = new_model("unet")
    state, student = teacher.state_dict(), student_from(teacher).state_dict()
    for ours, theirs in [
        ("down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1.weight"),
        ("up_blocks.1.resnets.0.conv1.weight", "up_blocks.1.resnets.0.conv1.weight"),
        ("up_blocks.1.resnets.1.conv1.weight", "up_blocks.1.resnets.2.conv1.weight"),
        ("up_blocks.2.attentions.1.proj_in.weight", "up_blocks.2.attentions.2.proj_in.weight"),
    ]:
        assert torch.equal(student[ours], state[theirs])


def test_folding_the_scaling_factor_changes_no_picture():
    vae = new_model("vae").eval()
    latents, pixels = torch.randn(1, 4, 4, 4), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        picture, posterior = vae.decode(latents).sample, vae.encode(pixels).latent_dist
        fold_scaling(vae)
        factor = vae.config.scaling_factor
        folded = vae.encode(pixels).latent_dist
        assert torch.allclose(vae.decode(latents / factor).sample, picture, atol=1e-4)
        assert torch.allclose(folded.mean * factor, posterior.mean, atol=1e-4)
        assert torch.allclose(folded.std * factor, posterior.std, atol=1e-4)
