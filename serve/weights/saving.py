"""Writes models into a family folder, as world-readable fp16 safetensors."""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import WeightsError


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


def check_space(folder: Path, needed_bytes: int) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        WeightsError: fewer bytes are free.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise WeightsError(
            f"{folder}: {needed_bytes / 1e9:.1f} GB are needed, "
            f"but only {free_bytes / 1e9:.1f} GB are free"
        )


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an exclusive lock on a folder, which ends with the process.

    Raises:
        WeightsError: another process has it.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsError(f"{folder}: another command is writing into it") from None
        yield
    finally:
        os.close(lock)
