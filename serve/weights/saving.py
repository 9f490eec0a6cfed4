"""Writes models into a family folder, as world-readable fp16 safetensors."""

import json
from pathlib import Path
from typing import Any


def save_fp16(model: Any, component_dir: Path) -> None:
    """Convert a diffusers or transformers model to fp16, and write it as one safetensors file."""
    model.half().save_pretrained(component_dir, variant="fp16", max_shard_size="50GB")
    tidy(component_dir)


def tidy(component_dir: Path) -> None:
    """Remove this machine's paths, and make files world-readable (safetensors writes 0600).

    Also removes AutoencoderTiny's `block_out_channels`, which it warns of when it reads it back.
    """
    component_dir.chmod(0o755)
    for path in component_dir.iterdir():
        path.chmod(0o644)
        if path.name in ("config.json", "scheduler_config.json", "tokenizer_config.json"):
            config = json.loads(path.read_text())
            config.pop("_name_or_path", None)
            if config.get("_class_name") == "AutoencoderTiny":
                config.pop("block_out_channels", None)
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
