"""The manifest beside the weights: each file's size, hash, origin and licence."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ..errors import WeightsError
from ..variants import FamilyName, Variant

MANIFEST_NAME = "manifest.json"
# Of components that no licence was named for; the default of an entry's `licence`, too.
UNKNOWN_LICENCE = "unknown"

# A single path segment: no separator, no leading dot, so no name can escape its folder.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """A part of the manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class PinnedFile(Frozen):
    """A file's size and hash."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class LoraOrigin(Frozen):
    """Where a merged LoRA came from; `sha256` is its file's."""

    repository: str
    revision: str
    sha256: Sha256


class Origin(Frozen):
    """Where a component's files came from.

    `hub`: downloaded from `repository`, at the commit `revision`. `merged`: the same, with `lora`
    merged into it here. `random`: random values drawn with `seed`. `shipped`: part of this project.
    `local`: adopted as they were.
    """

    kind: Literal["hub", "merged", "random", "shipped", "local"]
    licence: str
    repository: str | None = None
    revision: str | None = None
    seed: int | None = None
    lora: LoraOrigin | None = None


class PinnedComponent(Frozen):
    """A sub-folder: its origin, and its files by name."""

    origin: Origin
    files: dict[Name, PinnedFile]


class Manifest(Frozen):
    """A family folder's `manifest.json`; components by sub-folder."""

    # For later versions, should the schema change.
    format: Literal[1] = 1
    family: FamilyName
    components: dict[Name, PinnedComponent]

    def origins(self, variant: Variant) -> dict[str, Origin]:
        """Origins of a variant's components, by diffusers' names."""
        return {
            name: self.components[component.folder].origin
            for name, component in variant.components.items()
        }

    def note(self, variant: Variant) -> str | None:
        """A warning for everybody who sees the variant's pictures, if any."""
        if any(origin.kind == "random" for origin in self.origins(variant).values()):
            return "these weights are random values: the time is real, the picture means nothing"
        return None


def read_manifest(folder: Path) -> Manifest:
    """Read a family folder's manifest.

    Raises:
        WeightsError: it is missing, malformed, or names a file outside its component's folder.
    """
    path = folder / MANIFEST_NAME
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: missing; `make weights` writes one. For files of your own, "
            f"`python -m serve.weights adopt {folder}` pins them as they are"
        ) from None
    except OSError as fault:
        raise WeightsError(f"{path}: can't be read: {fault.strerror}") from None
    except ValidationError as fault:
        first = fault.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{path}: {where}: {first['msg']}") from None


def manifest_before_writing(folder: Path, family: FamilyName, kinds: Mapping[str, str]) -> Manifest:
    """The manifest of a folder that more is to be written into; an empty one for an empty folder.

    Components that aren't among `kinds`, such as converted ones, are kept.

    Raises:
        WeightsError: it holds other files, another family, or components whose origin isn't that
            of `kinds`, by component: nothing is overwritten with something else. Others may be
            there, and are left as they are.
    """
    if not folder.is_dir() or not any(folder.iterdir()):
        return Manifest(family=family, components={})
    if not (folder / MANIFEST_NAME).exists():
        raise WeightsError(
            f"{folder}: has files but no {MANIFEST_NAME}; choose an empty folder, "
            f"or pin its files with `{adopt_command(folder, family)}`"
        )
    manifest = read_manifest(folder)
    if manifest.family != family:
        raise WeightsError(
            f"{folder}: has family {manifest.family!r}; choose another folder for {family!r}"
        )
    for name, component in manifest.components.items():
        if name in kinds and component.origin.kind != kinds[name]:
            raise WeightsError(
                f"{folder / name}: its origin is {component.origin.kind!r}; choose another folder"
            )
    return manifest


def adopt_command(folder: Path, family: FamilyName) -> str:
    """The command line that pins files of one's own in a family folder."""
    more = "" if family == "sd-v1" else f" --family {family}"  # The command's default.
    return f"python -m serve.weights adopt {folder}{more}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a family folder's manifest atomically."""
    path = folder / MANIFEST_NAME
    partial = path.with_suffix(".partial")
    partial.write_text(manifest.model_dump_json(indent=2, exclude_none=True) + "\n")
    partial.replace(path)


def pin(component_dir: Path, origin: Origin) -> PinnedComponent:
    """Pin every file in a component's folder as it is now.

    Raises:
        WeightsError: a file's name is not allowed in a manifest.
    """
    try:
        return PinnedComponent(
            origin=origin,
            files={path.name: pin_file(path) for path in sorted(component_dir.iterdir())},
        )
    except ValidationError as fault:
        raise WeightsError(f"{component_dir}: {fault.errors()[0]['loc'][1]!r}: bad name") from None


def pin_file(path: Path) -> PinnedFile:
    """Pin one file as it is now."""
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    return PinnedFile(bytes=path.stat().st_size, sha256=digest)
