"""Write the trained components as the diffusers folders that the ordinary loader reads."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from diffusers import ModelMixin
from transformers import CLIPTextModel, CLIPTokenizer

from . import architecture


def export_text(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, weights: Path) -> None:
    """Write `tokenizer/`, `scheduler/` and `text_encoder/`."""
    tokenizer.save_pretrained(weights / "tokenizer")
    architecture.scheduler().save_pretrained(weights / "scheduler")
    copy.deepcopy(text_encoder).half().save_pretrained(weights / "text_encoder", variant="fp16")
    for name in ("tokenizer", "scheduler", "text_encoder"):
        _tidy(weights / name)


def export_model(model: ModelMixin, weights: Path, name: str) -> None:
    """Write one diffusers model as fp16 safetensors into `weights/name`."""
    copy.deepcopy(model).half().save_pretrained(weights / name, variant="fp16")
    _tidy(weights / name)


def _tidy(folder: Path) -> None:
    """Drop what names the machine, and let everybody read (safetensors writes 0600).

    AutoencoderTiny writes a `block_out_channels` that it warns of when it reads it back.
    """
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)
        if path.name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)
            if config.get("_class_name") == "AutoencoderTiny":
                config.pop("block_out_channels", None)
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
