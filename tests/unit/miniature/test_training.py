"""The miniature's training: its loop goes on where it broke off, its models fit together."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler
from torch import nn

from serve.miniature.training import consistency
from serve.miniature.training.architecture import new_model, scheduler
from serve.miniature.training.consistency import Trajectories, distil_steps
from serve.miniature.training.dataset import CaptionedLatents
from serve.miniature.training.fitting import Budget, World, fit
from serve.miniature.training.train_unet import Captions, student_from
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
@pytest.mark.parametrize(("stage", "steps"), [("latents", 3), ("vae_tiny", 9)])
def test_two_processes_train_a_stage_together(tmp_path, stage, steps):
    options = ["--scale", "0.001", "--stages", stage, "--processes", "2"]
    command = [sys.executable, "-m", "serve.miniature.training", "--out", str(tmp_path), *options]
    subprocess.run(command, cwd=ROOT, check=True)
    assert torch.load(tmp_path / f"{stage}.pt", weights_only=True)["step"] == steps


def test_the_student_starts_with_the_teachers_first_and_last_pairs():
    teacher = new_model("unet")
    state, student = teacher.state_dict(), student_from(teacher, "unet_distilled").state_dict()
    for ours, theirs in [
        ("down_blocks.0.resnets.0.conv1.weight", "down_blocks.0.resnets.0.conv1.weight"),
        ("up_blocks.1.resnets.0.conv1.weight", "up_blocks.1.resnets.0.conv1.weight"),
        ("up_blocks.1.resnets.1.conv1.weight", "up_blocks.1.resnets.2.conv1.weight"),
        ("up_blocks.2.attentions.1.proj_in.weight", "up_blocks.2.attentions.2.proj_in.weight"),
    ]:
        assert torch.equal(student[ours], state[theirs])


def test_the_smaller_student_starts_with_the_teachers_outer_blocks():
    teacher = new_model("unet")
    state, student = teacher.state_dict(), student_from(teacher, "unet_bk_tiny").state_dict()
    for ours, theirs in [
        ("down_blocks.1.resnets.0.conv1.weight", "down_blocks.1.resnets.0.conv1.weight"),
        ("up_blocks.0.resnets.1.conv1.weight", "up_blocks.1.resnets.2.conv1.weight"),
        ("up_blocks.1.attentions.1.proj_in.weight", "up_blocks.2.attentions.2.proj_in.weight"),
    ]:
        assert torch.equal(student[ours], state[theirs])
    # Its first resnet takes what the innermost block gave, which has other channels.
    shape = student["up_blocks.0.resnets.0.conv1.weight"].shape
    assert shape != state["up_blocks.1.resnets.0.conv1.weight"].shape


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


def test_a_ddim_step_with_the_true_noise_stays_on_the_trajectory():
    trajectories = Trajectories(scheduler().alphas_cumprod, torch.device("cpu"))
    latents, noise = torch.randn(2, 3, 4, 6, 6)
    index = torch.tensor([1, 20, 49])
    sample = trajectories.noisy(latents, noise, index)
    assert torch.allclose(trajectories.finished(sample, noise, index), latents, atol=1e-4)
    following = trajectories.step(sample, noise, index)
    assert torch.allclose(following, trajectories.noisy(latents, noise, index - 1), atol=1e-4)
    # LCM's scheduler takes its timesteps from these points.
    lcm = LCMScheduler.from_config(scheduler().config)
    lcm.set_timesteps(4)
    assert set(lcm.timesteps.tolist()) <= set(trajectories.timesteps(torch.arange(50)).tolist())


def _captioned(rows):
    return CaptionedLatents(
        torch.randn(rows, 4, 12, 12).half(),
        torch.randint(0, 600, (rows, 1, 77)).short(),
        torch.zeros(77, dtype=torch.int16),
    )


def test_the_loss_is_algorithm_1s(monkeypatch):
    """Once more with diffusers' DDIM, a row at a time."""
    trained = {}
    monkeypatch.setattr(
        consistency, "fit", lambda world, name, modules, loss_of, *_: trained.update(loss=loss_of)
    )
    monkeypatch.setattr(World, "autocast", lambda world: nullcontext())
    torch.manual_seed(0)
    data, size, scale = _captioned(16), 50, 3.0
    teacher, text = new_model("unet_distilled"), new_model("text_encoder")
    student = distil_steps(
        _ALONE, "few", data, teacher, text, scheduler().alphas_cumprod, scale,
        Budget(1, size, 1e-3), None,
    )  # fmt: skip
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.02 * torch.randn_like(parameter)

    ddim = DDIMScheduler.from_config(scheduler().config, clip_sample=False)
    ddim.set_timesteps(50)
    generator = torch.Generator().manual_seed(9)
    rows = torch.randint(len(data.latents), (size,), generator=generator)
    clean = data.latents[rows].float()
    noise = torch.randn(clean.shape, generator=generator)
    places = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    tokens = Captions(data).draw(rows, generator)
    errors = []

    def finished(unet, sample, at, condition):
        predicted = unet(sample, at, condition).sample
        return ddim.step(predicted, at, sample).pred_original_sample

    with torch.no_grad():
        states = text(tokens).last_hidden_state
        nothing = text(data.no_tokens.long()[None]).last_hidden_state
        for row, place in enumerate(places.tolist()):
            timestep = 20 * (int(place * 50) + 1) - 1
            condition = states[row : row + 1]

            sample = ddim.add_noise(
                clean[row : row + 1], noise[row : row + 1], torch.tensor([timestep])
            )
            without = teacher(sample, timestep, nothing).sample
            guided = without + scale * (teacher(sample, timestep, condition).sample - without)
            following = ddim.step(guided, timestep, sample).prev_sample
            goal = following
            if timestep > 19:
                goal = finished(student, following, timestep - 20, condition)
            errors.append(finished(student, sample, timestep, condition) - goal)
        error = torch.cat(errors)
        expected = ((error.square() + 1e-6).sqrt() - 1e-3).mean()
        loss = trained["loss"](torch.Generator().manual_seed(9))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_consistency_distillation_goes_on_from_its_checkpoint(tmp_path):
    data = _captioned(8)
    torch.manual_seed(0)
    teacher, text = new_model("unet_distilled"), new_model("text_encoder")

    def distilled(steps):
        budget = Budget(steps, 4, 1e-3, ema=0.5)
        alphas = scheduler().alphas_cumprod
        return distil_steps(_ALONE, "few", data, teacher, text, alphas, 2.0, budget, tmp_path)

    distilled(2)
    student = distilled(3)
    assert torch.load(tmp_path / "few.pt", weights_only=True)["step"] == 3
    weights = student.state_dict()
    assert all(value.isfinite().all() for value in weights.values())
    changed = [
        not torch.equal(weights[name], value) for name, value in teacher.state_dict().items()
    ]
    assert all(changed)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--variant", "huge"], "--variant: 'huge' was given", id="variant"),
        pytest.param(["--family", "sd-v1"], "--pictures: is needed", id="pictures"),
        pytest.param(["--pictures", "."], "holds no picture with a caption", id="captions"),
    ],
)
def test_a_distillation_that_cannot_work_is_refused_at_once(
    tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.setattr(sys, "argv", ["consistency", "--out", str(tmp_path / "out"), *arguments])
    with pytest.raises(SystemExit):
        consistency.main()
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
