"""Consistency distillation: makes a UNet that draws in four steps without guidance.

`python -m serve.miniature.training.consistency --variant distilled --out DIR` distils a variant of
the miniature over scenes that it draws. `--family sd-v1 --weights FOLDER --pictures PICTURES` is
the same over another family folder and a folder of pictures, each with its caption beside it in a
text file of the same name. An interrupted run resumes; the finished UNet is in DIR, a folder for a
family's.
"""

import argparse
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.distributed as dist
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm
from transformers import CLIPTextModel

from ...catalogue import family
from ...errors import WeightsError
from ...pipelines.components import load_components
from ...variants import FamilyName, Variant
from ...weights.check import check_family
from ...weights.layout import family_dir
from .dataset import CaptionedLatents, tokenize
from .export import export_model
from .fitting import Budget, World, fit, free_port, save_atomically
from .scenes import draw, random_caption, random_scene
from .train_latents import to_float
from .train_unet import Captions, use_plain_attention

_SOLVER_STEPS = 50
"""Of the teacher's trajectory, and so of `LCMScheduler`, whose timesteps are some of these."""
_HUBER_C = 0.001
_CAPTIONS = 4
"""Per scene; a picture of one's own has one."""
_PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}


class Trajectories:
    """The points of the teacher's DDIM trajectory; index 0 is the one nearest the picture."""

    def __init__(self, alphas_cumprod: Tensor, device: torch.device) -> None:
        stride = len(alphas_cumprod) // _SOLVER_STEPS
        timesteps = torch.arange(1, _SOLVER_STEPS + 1) * stride - 1
        before = torch.cat([torch.zeros(1, dtype=torch.long), timesteps[:-1]])
        self._timesteps = timesteps.to(device)
        self._signal = alphas_cumprod[timesteps].float().sqrt().to(device)
        self._noise = (1 - alphas_cumprod[timesteps].float()).sqrt().to(device)
        self._next_signal = alphas_cumprod[before].float().sqrt().to(device)
        self._next_noise = (1 - alphas_cumprod[before].float()).sqrt().to(device)

    def timesteps(self, index: Tensor) -> Tensor:
        """The UNet's timesteps at these points."""
        return self._timesteps[index]

    def noisy(self, latents: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """Latents on their way to noise."""
        return _rows(self._signal[index]) * latents + _rows(self._noise[index]) * noise

    def finished(self, sample: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """The finished latents that a prediction of the noise amounts to."""
        return (sample - _rows(self._noise[index]) * noise) / _rows(self._signal[index])

    def step(self, sample: Tensor, noise: Tensor, index: Tensor) -> Tensor:
        """One DDIM step with a prediction of the noise: the sample at `index - 1`."""
        finished = self.finished(sample, noise, index)
        return _rows(self._next_signal[index]) * finished + _rows(self._next_noise[index]) * noise


def distil_steps(
    world: World,
    name: str,
    data: CaptionedLatents,
    teacher: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    alphas_cumprod: Tensor,
    guidance_scale: float,
    budget: Budget,
    folder: Path,
) -> UNet2DConditionModel:
    """Train a copy of `teacher`, whose checkpoints are in `<folder>/<name>.pt`.

    From any point of the teacher's guided trajectory the student must predict the picture that it
    predicts from the next point; the last point's is the teacher's own. Luo et al., Latent
    Consistency Models, https://arxiv.org/abs/2310.04378, algorithm 1, with one guidance scale
    instead of an embedding of many, and the student as its own target, as in Song and Dhariwal,
    https://arxiv.org/abs/2310.14189. Their `c_skip` and `c_out` are 0 and 1 within 1e-5 from the
    first point on, so they are left out.
    """
    student = UNet2DConditionModel.from_config(teacher.config)
    student.load_state_dict(teacher.state_dict())
    trajectories = Trajectories(alphas_cumprod, world.device)
    captions = Captions(data)
    for frozen in (teacher, text_encoder):
        frozen.to(world.device).eval().requires_grad_(False)
    for unet in (teacher, student):
        use_plain_attention(unet, world)
    with torch.no_grad():
        no_caption = data.no_tokens.long()[None].to(world.device)
        unconditional = text_encoder(no_caption).last_hidden_state

    def predict(unet: UNet2DConditionModel, sample: Tensor, at: Tensor, states: Tensor) -> Tensor:
        guess: Tensor = unet(sample, trajectories.timesteps(at), states, return_dict=False)[0]
        return guess.float()  # Steps of the solver need more digits than bf16 has.

    def loss_of(generator: torch.Generator) -> Tensor:
        size = budget.batch
        rows = torch.randint(len(data.latents), (size,), generator=generator)
        clean = data.latents[rows].float()
        noise = torch.randn(clean.shape, generator=generator)
        # Stratified: every batch covers the whole trajectory evenly.
        places = (torch.arange(size) + torch.rand(size, generator=generator)) / size
        index = (places * _SOLVER_STEPS).long().clamp(max=_SOLVER_STEPS - 1).to(world.device)
        sample = trajectories.noisy(clean.to(world.device), noise.to(world.device), index)
        tokens = captions.draw(rows, generator).to(world.device)
        with world.autocast():
            with torch.no_grad():
                states = text_encoder(tokens).last_hidden_state
                both = torch.cat([unconditional.expand_as(states), states])
                guesses = predict(teacher, torch.cat([sample] * 2), torch.cat([index] * 2), both)
                without, with_caption = guesses.chunk(2)
                guided = without + guidance_scale * (with_caption - without)
                following = trajectories.step(sample, guided, index)
                before = (index - 1).clamp(min=0)
                goal = trajectories.finished(
                    following, predict(student, following, before, states), before
                )
                goal = torch.where(_rows(index) == 0, following, goal)
            guess = predict(student, sample, index, states)
        error = trajectories.finished(sample, guess, index) - goal
        # A pseudo-Huber loss: near 0 it is squared, so that rare large errors don't dominate.
        return ((error.square() + _HUBER_C**2).sqrt() - _HUBER_C).mean()

    fit(world, name, nn.ModuleDict({"unet": student}), loss_of, budget, folder)
    return student


def _rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


@dataclass(frozen=True)
class DistillationRun:
    """The options of the command line."""

    variant: Variant
    weights: Path
    pictures: Path | None
    out: Path
    device: str
    processes: int
    samples: int
    guidance_scale: float
    budget: Budget
    port: int

    @property
    def name(self) -> str:
        """The folder of the finished UNet."""
        return f"{self.variant.unet.folder}_lcm"


def _distil(rank: int, run: DistillationRun) -> None:
    """Run as process `rank`; the first process writes the UNet."""
    if run.device == "cpu":
        torch.set_num_threads(1)
    if run.processes > 1:
        dist.init_process_group(
            "gloo", f"tcp://127.0.0.1:{run.port}", rank=rank, world_size=run.processes
        )
    world = World(rank, run.processes, torch.device(run.device))
    loaded = load_components([run.variant], run.weights, world.device, torch.float32)
    # Training uses more of the models than serving's protocols name.
    parts: Any = loaded[run.variant.name]
    student = distil_steps(
        world,
        run.name,
        _captioned_latents(run, parts, world),
        parts.unet,
        parts.text_encoder,
        parts.scheduler.alphas_cumprod,
        run.guidance_scale,
        run.budget,
        run.out,
    )
    if rank == 0:
        export_model(student.cpu(), run.out, run.name)
        print(f"{run.out / run.name}: finished", flush=True)
    if run.processes > 1:
        dist.barrier()
        dist.destroy_process_group()


def _captioned_latents(run: DistillationRun, parts: Any, world: World) -> CaptionedLatents:
    """This process's share of the data, encoded once and cached."""
    path = run.out / f"latents-{_digest(run)}-{world.rank}-of-{world.size}.pt"
    if path.exists():
        return CaptionedLatents(*torch.load(path, weights_only=True))
    side_px, count = run.variant.default_size_px, run.samples // world.size
    source = _scenes(count, 200 + world.rank)
    if run.pictures is not None:
        files = _pictures(run.pictures)[world.rank : run.samples : world.size]
        source = (_read(file, side_px) for file in files)
        count = len(files)
    latents, tokens = [], []
    for pixels, captions in tqdm(
        source, desc="latents", total=count, disable=world.rank > 0, mininterval=5
    ):
        with torch.no_grad(), world.autocast():
            picture = to_float(torch.from_numpy(pixels)[None]).to(world.device)
            encoded = parts.vae.encode(picture).latent_dist.mean
        latents.append((encoded.float() * parts.vae.config.scaling_factor).half().cpu())
        tokens.append(tokenize(parts.tokenizer, captions)[None])
    data = (torch.cat(latents), torch.cat(tokens), tokenize(parts.tokenizer, [""])[0])
    save_atomically(data, path)
    return CaptionedLatents(*data)


def _digest(run: DistillationRun) -> str:
    """Names what the latents are made of, so that others' aren't taken for them."""
    files = [] if run.pictures is None else _pictures(run.pictures)
    pictures = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    made_of = run.weights.resolve(), run.variant.vae.folder, run.samples, pictures
    return hashlib.sha256(repr(made_of).encode()).hexdigest()[:12]


def _scenes(count: int, seed: int) -> Iterator[tuple[NDArray[np.uint8], list[str]]]:
    """The miniature's scenes: pixels (96, 96, 3) and captions of each."""
    rng = np.random.default_rng(seed)
    for _ in range(count):
        scene = random_scene(rng)
        yield draw(scene), [random_caption(scene, rng) for _ in range(_CAPTIONS)]


def _pictures(folder: Path) -> list[Path]:
    """The pictures that have a caption, in the order of their names."""
    files = (path for path in folder.iterdir() if path.suffix.lower() in _PICTURE_SUFFIXES)
    return sorted(path for path in files if path.with_suffix(".txt").is_file())


def _read(file: Path, side_px: int) -> tuple[NDArray[np.uint8], list[str]]:
    """The middle square of a picture, (side, side, 3), and its caption."""
    with Image.open(file) as opened:
        square = ImageOps.fit(opened.convert("RGB"), (side_px, side_px), Image.Resampling.LANCZOS)
    return np.array(square), [file.with_suffix(".txt").read_text(encoding="utf-8").strip()]


def main() -> None:
    """Read the command line, refuse what can't work, and distil."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.miniature.training.consistency", description=__doc__
    )
    parser.add_argument("--family", choices=get_args(FamilyName), default="miniature")
    parser.add_argument("--weights", type=Path, help="the family folder; the miniature's own")
    parser.add_argument("--variant", default="original", help="the teacher")
    parser.add_argument(
        "--pictures",
        type=Path,
        help="NAME.png, .jpg or .webp, each with its caption in NAME.txt; the middle square",
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoints and the UNet")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--processes", type=int, help="default: 2 on a CPU, 1 on a GPU")
    parser.add_argument(
        "--samples", type=int, default=20_000, help="pictures at most; default: %(default)s"
    )
    parser.add_argument("--guidance-scale", type=float, help="the teacher's; its variant's own")
    parser.add_argument(
        "--steps", type=int, default=1_500, help="of training; default: %(default)s"
    )
    parser.add_argument(
        "--batch", type=int, default=64, help="samples a step, all processes; default: %(default)s"
    )
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="default: %(default)s")
    args = parser.parse_args()
    known = family(args.family).variants
    variants = {name: variant for name, variant in known.items() if not variant.few_step}
    if args.variant not in variants:
        parser.error(f"--variant: {args.variant!r} was given; allowed: {', '.join(variants)}")
    variant = variants[args.variant]
    if args.family != "miniature" and args.pictures is None:
        parser.error("--pictures: is needed; only the miniature draws its own")
    if args.pictures is not None and not (args.pictures.is_dir() and _pictures(args.pictures)):
        parser.error(f"--pictures: {args.pictures} holds no picture with a caption beside it")
    try:
        weights = family_dir(args.family, args.weights)
        check_family(weights, family(args.family), [args.variant])
    except WeightsError as fault:
        parser.error(fault.message)
    processes = args.processes or (2 if args.device == "cpu" else 1)
    if args.pictures is not None:
        processes = min(processes, len(_pictures(args.pictures)))
    args.out.mkdir(parents=True, exist_ok=True)
    run = DistillationRun(
        variant,
        weights,
        args.pictures,
        args.out,
        args.device,
        processes,
        args.samples,
        variant.guidance_scale if args.guidance_scale is None else args.guidance_scale,
        Budget(args.steps, max(1, args.batch // processes), args.learning_rate, ema=0.995),
        free_port(),
    )
    if processes == 1:
        _distil(0, run)
    else:
        spawn(_distil, (run,), processes)


if __name__ == "__main__":
    main()
