"""Paths of families and their components. Standard library only: the pipelines import it."""

from pathlib import Path
from typing import Literal

from ..errors import WeightsError
from ..miniature import WEIGHTS_DIR
from ..variants import Component, FamilyName, Variant

# Of a family folder: what is being made. Left behind only if that was killed, and never read.
UNFINISHED_DIR = ".unfinished"
_ARCHITECTURES_DIR = Path(__file__).parent / "architectures"


def family_dir(name: FamilyName, weights_dir: Path | None) -> Path:
    """The folder of a family's weights; by default the embedded one for the miniature.

    Raises:
        WeightsError: the folder doesn't exist, or is missing for a family that isn't embedded.
            Another family is never served in its place.
    """
    if weights_dir is None and name == "miniature":
        return WEIGHTS_DIR
    if weights_dir is None:
        raise WeightsError(
            f"weights_dir: not given, but family {name!r} is not part of this repository; "
            f"download it with `make weights FAMILY={name}` and set weights_dir to its folder, "
            "or set family to 'miniature'"
        )
    if not weights_dir.is_dir():
        raise WeightsError(
            f"weights_dir: {str(weights_dir)!r} is not a folder; family {name!r} is read from a "
            "folder with one sub-folder per component"
        )
    return weights_dir


def architecture_dir(name: FamilyName) -> Path:
    """A family folder with the family's configurations, tokenizer and scheduler.

    The miniature's also holds its weights.
    """
    return WEIGHTS_DIR if name == "miniature" else _ARCHITECTURES_DIR / name


def fp32_bytes(folder: Path, variant: Variant, *, safety_checker: bool = False) -> int:
    """Memory of a variant's weights on a CPU, where they are cast to fp32."""
    parts = variant.components | (variant.safety_components if safety_checker else {})
    return sum(
        path.stat().st_size * (2 if path.name.endswith(".fp16.safetensors") else 1)
        for component_dir in {folder / part.folder for part in parts.values()}
        for path in component_dir.glob("*.safetensors")
    )


def config_name(component: Component) -> str:
    """The file name of a component's configuration."""
    names = {
        "CLIPTokenizer": "tokenizer_config.json",
        "PNDMScheduler": "scheduler_config.json",
        "CLIPImageProcessor": "preprocessor_config.json",
    }
    return names.get(component.component_class, "config.json")


def precision_suffix(component_dir: Path) -> Literal["fp16"] | None:
    """The `variant` argument of `from_pretrained` for a component's weights."""
    return "fp16" if any(component_dir.glob("*.fp16.safetensors")) else None
