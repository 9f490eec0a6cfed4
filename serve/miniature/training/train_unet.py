"""The teacher UNet with its text encoder, and the students distilled from it."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel

from .architecture import new_model, scheduler
from .dataset import CaptionedLatents
from .fitting import Budget, World, fit

_CAPTION_DROPOUT = 0.15
_NOISE_WORDS = 0.04
_SNR_CEILING = 5.0
"""Min-SNR weighting, https://arxiv.org/abs/2303.09556."""
_FEATURE_WEIGHT = 0.1


class Captions:
    """Draws captions of the training data's rows."""

    def __init__(self, data: CaptionedLatents) -> None:
        self._tokens, self._no_tokens = data.tokens, data.no_tokens.long()

    def draw(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Token ids (B, 77): one caption a row, some of them empty, some with a random word."""
        which = torch.randint(self._tokens.shape[1], rows.shape, generator=generator)
        ids = self._tokens[rows, which].long()
        lots = torch.rand(len(rows), generator=generator)
        ids[lots < _CAPTION_DROPOUT] = self._no_tokens
        # Some captions contain a random word, so that byte tokens learn to be ignored.
        for row in torch.nonzero(lots > 1 - _NOISE_WORDS).flatten().tolist():
            at = int(torch.randint(1, 7, (), generator=generator))
            word = torch.randint(
                0, 512, (int(torch.randint(2, 9, (), generator=generator)),), generator=generator
            )
            ids[row] = torch.cat([ids[row, :at], word, ids[row, at:]])[: ids.shape[1]]
        return ids


class Batches:
    """Random batches of noisy latents, their noise and their captions."""

    def __init__(self, data: CaptionedLatents, batch: int, device: torch.device) -> None:
        self._data = data
        self._captions = Captions(data)
        self._batch = batch
        self._device = device
        cumulative = scheduler().alphas_cumprod.float()
        self._signal, self._noise = cumulative.sqrt(), (1 - cumulative).sqrt()
        snr = cumulative / (1 - cumulative)
        self._weight = snr.clamp(max=_SNR_CEILING) / snr

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, timesteps, token ids, noise, and the weight of each row's loss."""
        size = self._batch
        rows = torch.randint(len(self._data.latents), (size,), generator=generator)
        latents = self._data.latents[rows].float()
        noise = torch.randn(latents.shape, generator=generator)
        # Stratified: every batch covers the whole range of timesteps evenly.
        places = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        timesteps = (places * 1000).long().clamp(max=999)
        signal = self._signal[timesteps].view(-1, 1, 1, 1)
        noisy = signal * latents + self._noise[timesteps].view(-1, 1, 1, 1) * noise
        captions = self._captions.draw(rows, generator)
        parts = (noisy, timesteps, captions, noise, self._weight[timesteps])
        return tuple(part.to(self._device) for part in parts)  # type: ignore[return-value]


def train_unet(
    world: World,
    data: CaptionedLatents,
    text_encoder: CLIPTextModel,
    budget: Budget,
    folder: Path,
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Train the teacher and the text encoder together on the noise."""
    torch.manual_seed(1)
    unet = new_model("unet")
    use_plain_attention(unet, world)
    text_encoder.set_attn_implementation("eager")
    batches = Batches(data, budget.batch, world.device)

    def loss_of(generator: torch.Generator) -> Tensor:
        noisy, timesteps, tokens, noise, weight = batches.draw(generator)
        with world.autocast():
            states = text_encoder(tokens).last_hidden_state
            guess = unet(noisy, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        return _weighted_error(guess, noise, weight)

    modules = nn.ModuleDict({"unet": unet, "text_encoder": text_encoder})
    fit(world, "unet", modules, loss_of, budget, folder)
    return unet, text_encoder


def train_student(
    world: World,
    name: str,
    data: CaptionedLatents,
    teacher: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    budget: Budget,
    folder: Path,
) -> UNet2DConditionModel:
    """Distil the student of this name: task, output and feature loss.

    Kim et al., BK-SDM, https://arxiv.org/abs/2305.15798.
    """
    student = student_from(teacher, name)
    use_plain_attention(student, world)
    for frozen in (teacher, text_encoder):
        frozen.to(world.device).eval().requires_grad_(False)
    batches = Batches(data, budget.batch, world.device)
    theirs, ours = _block_outputs(teacher), _block_outputs(student)

    def loss_of(generator: torch.Generator) -> Tensor:
        noisy, timesteps, tokens, noise, weight = batches.draw(generator)
        with world.autocast():
            with torch.no_grad():
                states = text_encoder(tokens).last_hidden_state
                goal = teacher(noisy, timesteps, encoder_hidden_states=states, return_dict=False)[0]
            guess = student(noisy, timesteps, encoder_hidden_states=states, return_dict=False)[0]
        pairs = [(ours[at], theirs[at]) for at in ours if ours[at].shape == theirs[at].shape]
        features = [
            functional.mse_loss(feature.float(), like.float())
            / like.float().square().mean().clamp(min=1e-6)
            for feature, like in pairs
        ]
        return (
            _weighted_error(guess, noise, weight)
            + _weighted_error(guess, goal.float(), weight)
            + _FEATURE_WEIGHT * torch.stack(features).mean()
        )

    fit(world, name, nn.ModuleDict({"unet": student}), loss_of, budget, folder)
    return student


def student_from(teacher: UNet2DConditionModel, name: str) -> UNet2DConditionModel:
    """A student with the teacher's weights.

    Each down block keeps its first pair; each up block its first and its last, whose skip
    connection comes from the block before. Where a student without the innermost blocks has fewer
    channels, those are new values.
    """
    student = new_model(name)
    state, own = teacher.state_dict(), student.state_dict()
    removed = len(teacher.up_blocks) - len(student.up_blocks)
    for key, value in own.items():
        parts = key.split(".")
        if parts[0] == "up_blocks":
            parts[1] = str(int(parts[1]) + removed)
            if parts[2] in ("resnets", "attentions") and parts[3] == "1":
                parts[3] = "2"
        like = state[".".join(parts)]
        if like.shape == value.shape:
            own[key] = like
    student.load_state_dict(own)
    return student


def _weighted_error(guess: Tensor, goal: Tensor, weight: Tensor) -> Tensor:
    error: Tensor = (guess.float() - goal).square().mean((1, 2, 3))
    return (error * weight).mean()


def _block_outputs(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """A dictionary that each forward pass fills with every block's output.

    Up blocks count from the last, since a student may lack the innermost ones.
    """
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, result: Any) -> None:
            outputs[name] = result[0] if isinstance(result, tuple) else result

        return hook

    for stage in ("down_blocks", "up_blocks"):
        blocks = getattr(unet, stage)
        for index, block in enumerate(blocks):
            place = index - len(blocks) if stage == "up_blocks" else index
            block.register_forward_hook(keep(f"{stage}.{place}"))
    return outputs


def use_plain_attention(unet: UNet2DConditionModel, world: World) -> None:
    """On a CPU, attention whose backward pass is quicker: the fused one costs 40 % of the speed."""
    if world.device.type == "cpu":
        unet.set_attn_processor(AttnProcessor())
