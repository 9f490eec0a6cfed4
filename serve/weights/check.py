"""Checks a family folder before anything is loaded, and for `verify`.

Reads names, sizes, configurations and safetensors headers, which takes milliseconds; contents only
if hashes are to be compared.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..catalogue import family as built_in
from ..errors import WeightsError
from ..variants import Component, Family, FamilyName
from .fit import check_fit
from .layout import UNFINISHED_DIR, config_name, precision_suffix
from .manifest import MANIFEST_NAME, Manifest, PinnedFile, adopt_command, pin_file, read_manifest

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
            link, unknown to the manifest, or not what the manifest says, or the component that
            doesn't fit the others.
    """
    variants = tuple(variants)
    needed = family.components(variants, safety_checker=safety_checker)
    if safety_checker:
        _check_for_safety_checker(folder, family, variants)
    if refused := next(refused_entries(folder), None):
        raise WeightsError(refused)
    for component in needed.values():
        if not (folder / component.folder).is_dir():
            raise WeightsError(_missing(folder, component, family, variants))
        check_component(folder, component)
    for name in variants:
        check_fit(folder, family.variants[name])
    manifest = read_manifest(folder)
    if manifest.family != family.name:
        raise WeightsError(
            f"{folder / MANIFEST_NAME}: these are weights of family {manifest.family!r}, "
            f"not of {family.name!r}"
        )
    if difference := next(differences(folder, manifest, set(needed), hashes=hashes), None):
        raise WeightsError(difference)
    return manifest


def check_local(folder: Path, component: Component, manifest: Manifest) -> None:
    """Check that a component that isn't published is there, and pinned.

    Raises:
        WeightsError: it isn't; says what to do.
    """
    if not (folder / component.folder).is_dir():
        raise WeightsError(_missing_local(folder, component, manifest.family))
    if component.folder not in manifest.components:
        raise WeightsError(
            f"{folder / component.folder}: not in {MANIFEST_NAME}; "
            f"`{_adopt(folder, manifest.family, component.folder)}` pins it"
        )


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
    """A line for each file that differs from the manifest, or local folder that is missing.

    Args:
        folder: the family folder.
        manifest: its manifest.
        needed: required components; files of others may be absent.
        hashes: whether to compare sha256, or sizes only.
        done: called with the bytes of each file whose sha256 was compared.
    """
    pinned: dict[Path, PinnedFile] = {}
    local = {name for name, part in manifest.components.items() if part.origin.kind == "local"}
    for name, component in manifest.components.items():
        if name in local and not (folder / name).is_dir():
            if name in needed:
                drop = adopt_command(folder, manifest.family)
                yield f"{folder / name}: missing; put it back, or drop its pin with `{drop}`"
            continue
        for file_name, file in component.files.items():
            pinned[folder / name / file_name] = file
            if name in needed and not (folder / name / file_name).is_file():
                yield f"{folder / name / file_name}: missing; the manifest names it"
    for path in sorted(_entries(folder)):
        if path.is_dir() or path == folder / MANIFEST_NAME:
            continue
        if folder / UNFINISHED_DIR in path.parents:
            continue
        name = path.parent.name
        own = path.parent.parent == folder and (name in local or name not in manifest.components)
        adopt = f"pin its folder with `{_adopt(folder, manifest.family, name)}`" if own else ""
        if path not in pinned:
            hint = f", or {adopt}" if own else ""
            yield f"{path}: unknown to {MANIFEST_NAME}; remove it{hint}"
            continue
        hint = f"; if you changed it, {adopt}" if own else ""
        if path.stat().st_size != pinned[path].bytes:
            yield (
                f"{path}: has {path.stat().st_size} bytes, the manifest says "
                f"{pinned[path].bytes}{hint}"
            )
        elif hashes and name in needed:
            found = pin_file(path).sha256
            if found != pinned[path].sha256:
                yield (
                    f"{path}: its sha256 is {found}, the manifest says {pinned[path].sha256}{hint}"
                )
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


def _missing(folder: Path, component: Component, family: Family, variants: Iterable[str]) -> str:
    if component.source is None:
        return _missing_local(folder, component, family.name)
    needing = next(name for name in variants if component.folder in family.components([name]))
    catalogue = "" if needing in built_in(family.name).variants else ' ARGS="--catalogue FILE"'
    return (
        f"{folder / component.folder}: missing; it must hold a {component.component_class}; "
        f"`make weights FAMILY={family.name} DIR={folder} VARIANT={needing}{catalogue}` "
        "downloads it"
    )


def _missing_local(folder: Path, component: Component, family: FamilyName) -> str:
    text = f"{folder / component.folder}: missing; it must hold a {component.component_class}"
    if component.like is None:
        return text
    return (
        f"{text}, and no repository is named for it: `python -m serve.weights convert` makes it "
        "of a single file; a folder that you put there is pinned by "
        f"`{_adopt(folder, family, component.folder)}`"
    )


def _adopt(folder: Path, family: FamilyName, name: str) -> str:
    """The command line that pins a component's folder."""
    shared = built_in(family)
    own = name not in shared.components(shared.variants, safety_checker=True)
    return adopt_command(folder, family) + (" --catalogue FILE" if own else "")


def check_component(folder: Path, component: Component) -> None:
    """Check that a component's folder is complete, and that its files can be read.

    Raises:
        WeightsError: names the first file that is missing, truncated or malformed.
    """
    component_dir = folder / component.folder
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
