"""Training data, cached on disk: pictures for the decoders, captioned latents for the UNets."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTokenizer

from .drawing import SIZE_PX
from .fitting import save_atomically
from .scenes import draw, random_caption, random_scene
from .train_latents import LatentCoder, to_float

_CAPTIONS = 4
"""Per scene."""


def pictures(folder: Path, count: int, seed: int) -> Tensor:
    """Pictures of `count` random scenes, drawn once and cached: (count, 96, 96, 3), uint8."""
    path = folder / f"pictures-{count}-{seed}.npy"
    if not path.exists():
        rng = np.random.default_rng(seed)
        partial = path.with_suffix(".partial")
        shape = (count, SIZE_PX, SIZE_PX, 3)
        array = np.lib.format.open_memmap(partial, "w+", dtype=np.uint8, shape=shape)
        for row in tqdm(range(count), desc="scenes", unit="scene", mininterval=5):
            array[row] = draw(random_scene(rng))
        array.flush()
        partial.replace(path)
    # Copy-on-write, since torch requires a writable array.
    return torch.from_numpy(np.load(path, mmap_mode="c"))


@dataclass(frozen=True)
class CaptionedLatents:
    """Training data of the UNets.

    Attributes:
        latents: (N, 4, 12, 12), unit variance, float16.
        tokens: (N, captions a scene, 77), int16.
        no_tokens: (77,), the empty caption.
    """

    latents: Tensor
    tokens: Tensor
    no_tokens: Tensor


def vocabulary_captions(count: int = 20_000) -> list[str]:
    """The captions that the vocabulary is learnt from; deterministic."""
    rng = np.random.default_rng(0)
    return sorted({random_caption(random_scene(rng), rng) for _ in range(count)})


def captioned_latents(
    folder: Path, coder: LatentCoder, tokenizer: CLIPTokenizer, count: int, seed: int
) -> CaptionedLatents:
    """Latents of `count` random scenes with four captions each, computed once and cached."""
    path = folder / f"captioned-{count}-{seed}.pt"
    if path.exists():
        return CaptionedLatents(*torch.load(path, weights_only=True))
    rng = np.random.default_rng(seed)
    latents, tokens = [], []
    for start in tqdm(range(0, count, 64), desc="captioned latents", mininterval=5):
        scenes = [random_scene(rng) for _ in range(min(64, count - start))]
        pixels = torch.from_numpy(np.stack([draw(scene) for scene in scenes]))
        with torch.no_grad():
            latents.append(coder.encode(to_float(pixels)).half())
        texts = [random_caption(scene, rng) for scene in scenes for _ in range(_CAPTIONS)]
        tokens.append(tokenize(tokenizer, texts).view(len(scenes), _CAPTIONS, -1))
    parts = (torch.cat(latents), torch.cat(tokens), tokenize(tokenizer, [""])[0])
    save_atomically(parts, path)
    return CaptionedLatents(*parts)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Token ids, padded as the pipeline does: (B, 77), int16."""
    ids = tokenizer(
        texts, padding="max_length", max_length=tokenizer.model_max_length, truncation=True
    )["input_ids"]
    return torch.tensor(ids, dtype=torch.int16)
