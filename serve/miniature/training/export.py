"""Writes trained components as diffusers folders."""

import copy
from pathlib import Path

from diffusers import ModelMixin
from transformers import CLIPTextModel, CLIPTokenizer

from ...weights.manifest import Manifest, Origin, pin, write_manifest
from ...weights.saving import save_fp16, tidy
from .architecture import scheduler


def export_text(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, weights: Path) -> None:
    """Write `tokenizer/`, `scheduler/` and `text_encoder/`."""
    tokenizer.save_pretrained(weights / "tokenizer")
    scheduler().save_pretrained(weights / "scheduler")
    for name in ("tokenizer", "scheduler"):
        tidy(weights / name)
    export_model(text_encoder, weights, "text_encoder")


def export_model(model: ModelMixin | CLIPTextModel, weights: Path, name: str) -> None:
    """Write a copy of a model, as fp16, into `weights/name`."""
    save_fp16(copy.deepcopy(model), weights / name)


def export_manifest(weights: Path) -> None:
    """Pin every component in `weights`."""
    origin = Origin(kind="shipped", licence="Apache-2.0")
    folders = sorted(path for path in weights.iterdir() if path.is_dir())
    pinned = {path.name: pin(path, origin) for path in folders}
    write_manifest(weights, Manifest(family="miniature", components=pinned))
