"""Checks a family folder before anything is loaded, and for `verify`.

Reads names, sizes, configurations and safetensors headers, which takes milliseconds; contents only
if hashes are to be compared.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..errors import WeightsError
from ..variants import Component, Family
from .layout import config_name, precision_suffix
from .manifest import MANIFEST_NAME, Manifest, PinnedFile, pin_file, read_manifest

_PICKLE_SUFFIXES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}


def check_family(
    folder: Path,
    family: Family,
    variants: Iterable[str],
    *,
    safety_checker: bool = False,
    hashes: bool = False,
) -> Manifest:
    """Check everything that the named variants read from a family folder.

    Args:
        folder: the family folder.
        family: the family it must hold.
        variants: whose components are required; others may be absent.
        safety_checker: whether their safety checker is required, too.
        hashes: also compare the sha256 of these components' files with the manifest.

    Raises:
        WeightsError: names the first file that is missing, truncated, malformed, a pickle, a
            link, unknown to the manifest, or not what the manifest says.
    """
    variants = tuple(variants)
    needed = family.components(variants, safety_checker=safety_checker)
    if safety_checker:
        _check_for_safety_checker(folder, family, variants)
    if refused := next(refused_entries(folder), None):
        raise WeightsError(refused)
    for component in needed.values():
        _check_component(folder, component)
    manifest = read_manifest(folder)
    if manifest.family != family.name:
        raise WeightsError(
            f"{folder / MANIFEST_NAME}: these are weights of family {manifest.family!r}, "
            f"not of {family.name!r}"
        )
    if difference := next(differences(folder, manifest, set(needed), hashes=hashes), None):
        raise WeightsError(difference)
    return manifest


def refused_entries(folder: Path) -> Iterator[str]:
    """A line for each link and pickle, which no family folder may hold."""
    for path in sorted(_entries(folder)):
        if path.is_symlink():
            yield f"{path}: is a link; a family folder must hold the files themselves"
        elif path.suffix.lower() in _PICKLE_SUFFIXES:
            yield (
                f"{path}: looks like a pickle, and loading a pickle runs code; "
                "remove it: only safetensors are allowed"
            )


def differences(
    folder: Path,
    manifest: Manifest,
    needed: set[str],
    *,
    hashes: bool,
    done: Callable[[int], object] = lambda size: None,
) -> Iterator[str]:
    """A line for each file that differs from the manifest.

    Args:
        folder: the family folder.
        manifest: its manifest.
        needed: required components; files of others may be absent.
        hashes: whether to compare sha256, or sizes only.
        done: called with the bytes of each file whose sha256 was compared.
    """
    pinned: dict[Path, PinnedFile] = {}
    for name, component in manifest.components.items():
        for file_name, file in component.files.items():
            pinned[folder / name / file_name] = file
            if name in needed and not (folder / name / file_name).is_file():
                yield f"{folder / name / file_name}: missing; the manifest names it"
    for path in sorted(_entries(folder)):
        if path.is_dir() or path == folder / MANIFEST_NAME:
            continue
        if path not in pinned:
            yield f"{path}: unknown to {MANIFEST_NAME}; remove it"
        elif path.stat().st_size != pinned[path].bytes:
            yield (
                f"{path}: has {path.stat().st_size} bytes, the manifest says {pinned[path].bytes}"
            )
        elif hashes and path.parent.name in needed:
            found = pin_file(path).sha256
            if found != pinned[path].sha256:
                yield f"{path}: its sha256 is {found}, the manifest says {pinned[path].sha256}"
            done(pinned[path].bytes)


def _entries(folder: Path) -> Iterator[Path]:
    # Not `rglob`, which would skip a linked folder without yielding the link.
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            yield Path(parent, name)


def _check_for_safety_checker(folder: Path, family: Family, variants: Iterable[str]) -> None:
    for variant in (family.variants[name] for name in variants):
        if not variant.safety_components:
            raise WeightsError(
                f"safety_checker: is on, but {variant.name!r} of family {family.name!r} has none; "
                "turn it off"
            )
        for component in variant.safety_components.values():
            if not (folder / component.folder).is_dir():
                raise WeightsError(
                    f"safety_checker: is on, but {folder / component.folder} is missing; "
                    f"`make weights FAMILY={family.name} DIR={folder} ARGS=--safety-checker` "
                    "downloads it, or turn it off"
                )


def _check_component(folder: Path, component: Component) -> None:
    component_dir = folder / component.folder
    if not component_dir.is_dir():
        raise WeightsError(f"{component_dir}: missing; it must hold a {component.component_class}")
    _check_config(component_dir / config_name(component))
    if component.component_class == "CLIPTokenizer":
        _check_tokenizer(component_dir)
    if component.has_weights:
        _check_safetensors(component_dir)


def _check_config(path: Path) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: missing") from None
    except (OSError, ValueError, RecursionError) as fault:
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
        raise WeightsError(f"{component_dir}: has no .safetensors file")
    for path in found:
        try:
            # Opening compares the header's offsets with the file's size: a cut file fails here.
            with safe_open(path, framework="numpy") as tensors:
                if not tensors.keys():
                    raise WeightsError(f"{path}: has no tensors")
        except (SafetensorError, OSError) as fault:
            raise WeightsError(f"{path}: truncated or damaged: {fault}") from None
