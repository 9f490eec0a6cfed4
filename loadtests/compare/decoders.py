"""What needs the models themselves: VAEs on identical latents, and the CLIP score.

Runs in this process, without the endpoint, and after it has been measured.
"""

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers import CLIPModel, CLIPProcessor

from serve.pipelines.pipeline import Pipeline
from serve.variants import Family, family
from serve.weights.layout import family_dir

from ..rounds import NameT
from ..workload import Workload
from .design import Design
from .endpoint import Endpoint
from .frontier import prompts
from .quality import ClipScores, Similarity, pixels, similarity
from .record import Record


def judge(
    endpoint: Endpoint,
    design: Design,
    record: Record,
    weights_dir: Path | None,
    clip: Path | None,
    found: dict[str, Any],
) -> None:
    """Add what `conclude` takes of VAEs on identical latents and CLIP scores, where they are here.

    Raises:
        OSError: a folder doesn't hold such a model.
        WeightsError: likewise.
    """
    if endpoint.family == "miniature" or weights_dir:
        print("Decoding identical latents with both VAEs ...", flush=True)
        folder, count = family_dir(endpoint.family, weights_dir), min(design.pictures, 8)
        found["vaes"] = vae_similarity(
            family(endpoint.family), design.variants, folder, design.drawn, count
        )
    if clip is None:
        return
    print("CLIP scores ...", flush=True)
    whole = record.drawn_by_all(design.variants)
    pictures = {name: [pixels(drawn[name]) for drawn in whole.values()] for name in design.variants}
    scores = clip_scores(clip, prompts(design.drawn, [*whole]), pictures)
    found["clip"] = {name: statistics.fmean(each.cosines) for name, each in scores.items()}
    if not record.frontier:
        return
    found["frontier_clip"] = clip_scores(
        clip,
        prompts(design.drawn, sorted(set().union(*record.frontier.values()))),
        {
            setting: [pixels(shots[index].picture) for index in sorted(shots)]
            for setting, shots in record.frontier.items()
        },
        within_s=design.frontier_s / 2,
    )
    if missing := len(record.frontier) - len(found["frontier_clip"]):
        record.left_out.append(f"CLIP scores of {missing} settings of the frontier")


def vae_pairs(family: Family, names: Sequence[str]) -> list[tuple[str, str]]:
    """Variants with the same UNet and another VAE: (the one with the KL VAE, the other)."""
    variants = [family.variants[name] for name in names]
    return [
        (variant.name, other.name)
        for variant in variants
        for other in variants
        if variant.unet == other.unet
        and variant.vae.component_class == "AutoencoderKL"
        and other.vae.component_class != "AutoencoderKL"
    ]


def vae_similarity(
    family: Family, names: Sequence[str], folder: Path, workload: Workload, count: int
) -> dict[tuple[str, str], Similarity]:
    """Decode the same latents with both VAEs of each pair, so that no UNet's part is in it.

    Drawn are the workload's first `count` prompts and seeds, at the variant's default size.
    """
    transformers.logging.disable_progress_bar()
    found = {}
    for kl_name, other_name in vae_pairs(family, names):
        variant = family.variants[kl_name]
        other = family.variants[other_name]
        pipeline = Pipeline.load([variant, other], folder, "auto")
        ours: list[NDArray[np.uint8]] = []
        theirs: list[NDArray[np.uint8]] = []
        for index in range(count):
            asked = workload.body(index, kl_name)
            guidance = asked.get("guidance_scale", variant.guidance_scale)
            steps = asked.get("num_inference_steps")
            job = variant.generation(
                asked["prompt"], [asked["seed"]], steps, guidance_scale=guidance
            )
            (trajectory,), _ = pipeline.begin(job)
            while trajectory.steps_done < trajectory.total_steps:
                pipeline.step([trajectory])
            theirs.append(pipeline.decode([trajectory])[0])
            ours.append(pipeline.decode([replace(trajectory, variant=other)])[0])
        found[kl_name, other_name] = similarity(ours, theirs)
    return found


def clip_scores(
    folder: Path,
    prompts: Sequence[str],
    pictures: Mapping[NameT, Sequence[NDArray[np.uint8]]],
    within_s: float = math.inf,
) -> dict[NameT, ClipScores]:
    """Scores and embeddings of each contender's pictures, in the prompts' order from the first on.

    The folder is in transformers' form, such as openai/clip-vit-large-patch14's files. After
    `within_s` no further contender is begun.

    Raises:
        OSError: the folder holds no such model.
    """
    model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
    scores: dict[NameT, ClipScores] = {}
    ends_s = time.monotonic() + within_s
    for name, drawn in pictures.items():
        if time.monotonic() > ends_s:
            break
        inputs = processor(
            text=list(prompts[: len(drawn)]),
            images=list(drawn),
            return_tensors="pt",
            padding=True,
            truncation=True,
        )
        with torch.inference_mode():
            output = model(**inputs)
        similarities = (output.text_embeds * output.image_embeds).sum(-1)
        scores[name] = ClipScores(tuple(similarities.tolist()), output.image_embeds.numpy())
    return scores
