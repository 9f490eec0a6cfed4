"""A family folder on disk: what must lie in it, and what is refused before anything is loaded.

    FOLDER/{tokenizer,text_encoder,scheduler,unet,unet_distilled,vae,vae_tiny}/

Each sub-folder is what diffusers' or transformers' `save_pretrained` writes. Weights are
safetensors only: a pickle anywhere in the folder is refused, because loading one runs its code.
"""

import json
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError, safe_open

from .errors import WeightsError
from .miniature import WEIGHTS_DIR
from .variants import Component, Family, FamilyName, Variant

_PICKLE_SUFFIXES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
_CONFIG_NAMES = {
    "CLIPTokenizer": "tokenizer_config.json",
    "PNDMScheduler": "scheduler_config.json",
}


def family_dir(name: FamilyName, weights_dir: Path | None) -> Path:
    """The folder that a family is read from: the embedded one for the miniature, unless told.

    Raises:
        WeightsError: a family that isn't shipped was asked for without a folder, or the folder
            doesn't exist. Another family is never served in its place.
    """
    if weights_dir is None and name == "miniature":
        return WEIGHTS_DIR
    if weights_dir is None:
        raise WeightsError(
            f"weights_dir: not given, but family {name!r} is not shipped with this repository; "
            "set weights_dir to a family folder, or family to 'miniature'"
        )
    if not weights_dir.is_dir():
        raise WeightsError(
            f"weights_dir: {str(weights_dir)!r} is not a folder; family {name!r} is read from a "
            "folder with one sub-folder per component"
        )
    return weights_dir


def check_family(folder: Path, family: Family, variants: list[str]) -> None:
    """Check everything that the named variants read from a family folder.

    Reads configurations and safetensors headers, not the tensors: milliseconds.

    Raises:
        WeightsError: names the first file that is missing, truncated, malformed or a pickle.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICKLE_SUFFIXES:
            raise WeightsError(
                f"{path}: looks like a pickle, and loading a pickle runs code; "
                "a family folder may hold safetensors only, remove it"
            )
    for name in variants:
        for component in family.variants[name].components.values():
            _check_component(folder, component)


def component_dirs(folder: Path, variant: Variant) -> dict[str, Path]:
    """A variant's component folders by the names that diffusers gives them."""
    return {name: folder / component.folder for name, component in variant.components.items()}


def precision_suffix(component_dir: Path) -> Literal["fp16"] | None:
    """What diffusers calls the `variant` of the weights in a component's folder."""
    return "fp16" if any(component_dir.glob("*.fp16.safetensors")) else None


def _check_component(folder: Path, component: Component) -> None:
    component_dir = folder / component.folder
    if not component_dir.is_dir():
        raise WeightsError(f"{component_dir}: missing; it must hold a {component.component_class}")
    _check_config(component_dir / _CONFIG_NAMES.get(component.component_class, "config.json"))
    if component.component_class == "CLIPTokenizer":
        _check_tokenizer(component_dir)
    if component.has_weights:
        _check_safetensors(component_dir)


def _check_config(path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: missing") from None
    except (OSError, ValueError) as fault:
        raise WeightsError(f"{path}: can't be read as JSON: {fault}") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: must hold a JSON object")


def _check_tokenizer(component_dir: Path) -> None:
    # transformers 5 writes one tokenizer.json; the published repositories hold the older pair.
    if (component_dir / "tokenizer.json").is_file():
        return
    for name in ("vocab.json", "merges.txt"):
        if not (component_dir / name).is_file():
            raise WeightsError(f"{component_dir / name}: missing (and no tokenizer.json either)")


def _check_safetensors(component_dir: Path) -> None:
    suffix = precision_suffix(component_dir)
    pattern = f"*.{suffix}.safetensors" if suffix else "*.safetensors"
    found = sorted(component_dir.glob(pattern))
    if not found:
        raise WeightsError(f"{component_dir}: holds no .safetensors file")
    for path in found:
        try:
            # Opening compares the header's offsets with the file's size: a cut file fails here.
            with safe_open(path, framework="numpy") as tensors:
                if not tensors.keys():
                    raise WeightsError(f"{path}: holds no tensors")
        except (SafetensorError, OSError) as fault:
            raise WeightsError(f"{path}: truncated or damaged: {fault}") from None
