"""The training loop of every stage: data-parallel, resumable, with a progress bar."""

import math
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm import tqdm

_SAVE_EVERY_S = 60.0
_WARM_UP_STEPS = 100


@dataclass(frozen=True)
class World:
    """A process's rank, the number of processes, and its device.

    On a CPU several single-threaded processes are much faster than one with several threads: the
    tensors are too small to split.
    """

    rank: int
    size: int
    device: torch.device

    def generator(self, seed: int) -> torch.Generator:
        """A CPU generator with a seed of this process's own."""
        return torch.Generator().manual_seed(seed * 1009 + self.rank)

    def autocast(self) -> AbstractContextManager[None]:
        """bf16 on GPUs, and on CPUs that have it natively (AVX-512)."""
        fast = self.device.type == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bool(fast))


@dataclass(frozen=True)
class Budget:
    """Steps, batch size per process, peak learning rate and EMA decay of a stage."""

    steps: int
    batch: int
    learning_rate: float
    ema: float = 0.999


def free_port() -> int:
    """A port on which the processes can meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def save_atomically(content: object, path: Path) -> None:
    """`torch.save`, atomically."""
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    partial.replace(path)


def fit(
    world: World,
    name: str,
    modules: nn.ModuleDict,
    loss_of: Callable[[torch.Generator], Tensor],
    budget: Budget,
    folder: Path,
) -> None:
    """Train `modules` in place and leave them with their averaged (EMA) weights.

    An interrupted run continues from its checkpoint `<folder>/<name>.pt`. `loss_of` draws a batch
    with the given generator and returns its loss; the first process's floating-point buffers win at
    the end.
    """
    modules.to(world.device).train()
    parameters = [p for p in modules.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=budget.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    averaged = {k: v.detach().clone().float() for k, v in modules.state_dict().items()}
    checkpoint, step = folder / f"{name}.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=world.device, weights_only=True)
        step, averaged = int(saved["step"]), saved["ema"]
        modules.load_state_dict(saved["model"])
        if "optimizer" in saved:
            optimizer.load_state_dict(saved["optimizer"])
    generator = world.generator(7 + step)
    bar = tqdm(
        total=budget.steps,
        initial=min(step, budget.steps),
        desc=name,
        unit="step",
        disable=world.rank > 0,
        mininterval=5,
    )
    saved_at, running = time.monotonic(), 0.0
    while step < budget.steps:
        for group in optimizer.param_groups:
            group["lr"] = budget.learning_rate * _rate(step, budget.steps)
        loss = loss_of(generator)
        loss.backward()
        _average_gradients(parameters, world)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        # The average starts short, so that the first steps don't linger in early snapshots.
        decay = min(budget.ema, (1 + step) / (20 + step))
        values = [value.detach().float() for value in modules.state_dict().values()]
        torch._foreach_lerp_(list(averaged.values()), values, 1 - decay)
        running = loss.item() if running == 0 else 0.98 * running + 0.02 * loss.item()
        bar.update()
        bar.set_postfix(loss=f"{running:.4f}", refresh=False)
        if world.rank == 0 and (
            time.monotonic() - saved_at > _SAVE_EVERY_S or step == budget.steps
        ):
            saved_at = time.monotonic()
            state = {"step": step, "model": modules.state_dict(), "ema": averaged}
            if step < budget.steps:
                state["optimizer"] = optimizer.state_dict()
            save_atomically(state, checkpoint)
    bar.close()
    if world.size > 1:
        # Buffers such as BatchNorm's moments differ a little between processes; the first's count.
        for value in averaged.values():
            dist.broadcast(value, 0)
    modules.load_state_dict({k: v.to(modules.state_dict()[k].dtype) for k, v in averaged.items()})
    modules.eval()


def _rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a hundredth."""
    warm = min(1.0, (step + 1) / _WARM_UP_STEPS)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def _average_gradients(parameters: list[nn.Parameter], world: World) -> None:
    if world.size == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Not torch's parameters_to_vector, which refuses other memory formats.
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(flat)
    parts = (flat / world.size).split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view(gradient.shape))
