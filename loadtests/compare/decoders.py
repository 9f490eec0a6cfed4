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

from serve.catalogue import family
from serve.pipelines.pipeline import Pipeline
from serve.variants import Component, Variant
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
        pairs = []
        for pair in vae_pairs(served_variants(endpoint, design.variants)):
            needed = {part.folder for variant in pair for part in variant.components.values()}
            if absent := sorted(name for name in needed if not (folder / name).is_dir()):
                names = " and ".join(variant.name for variant in pair)
                record.left_out.append(f"the VAEs of {names}: no {', '.join(absent)} in {folder}")
            else:
                pairs.append(pair)
        found["vaes"] = vae_similarity(pairs, folder, design.drawn, count)
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


def served_variants(endpoint: Endpoint, names: Sequence[str]) -> list[Variant]:
    """The variants as `/v1/models` has them, since not all need be built in."""
    like = next(iter(family(endpoint.family).variants.values()))
    variants = []
    for model in (endpoint.models[name] for name in names):
        defaults = model["defaults"]
        changes: dict[str, Any] = {
            "name": model["id"],
            "default_size_px": int(defaults["size"].split("x")[0]),
            "default_steps": defaults["num_inference_steps"],
            "guidance_scale": defaults["guidance_scale"],
            "default_scheduler": defaults["scheduler"],
            "preview_vae": None,
        }
        for name, part in model["components"].items():
            changes[name] = Component(part["folder"], part["component_class"], source=None)
        variants.append(replace(like, **changes))
    return variants


def vae_pairs(variants: Sequence[Variant]) -> list[tuple[Variant, Variant]]:
    """Variants with the same UNet and another VAE: (the one with the KL VAE, the other)."""
    return [
        (variant, other)
        for variant in variants
        for other in variants
        if variant.unet == other.unet
        and variant.vae.component_class == "AutoencoderKL"
        and other.vae.component_class != "AutoencoderKL"
    ]


def vae_similarity(
    pairs: Sequence[tuple[Variant, Variant]], folder: Path, workload: Workload, count: int
) -> dict[tuple[str, str], Similarity]:
    """Decode the same latents with both VAEs of each pair, so that no UNet's part is in it.

    Drawn are the workload's first `count` prompts and seeds, at the variant's default size.
    """
    transformers.logging.disable_progress_bar()
    found = {}
    for variant, other in pairs:
        pipeline = Pipeline.load([variant, other], folder, "auto")
        ours: list[NDArray[np.uint8]] = []
        theirs: list[NDArray[np.uint8]] = []
        for index in range(count):
            asked = workload.body(index, variant.name)
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
        found[variant.name, other.name] = similarity(ours, theirs)
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
