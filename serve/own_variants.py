"""Variants of one's own: entries of a catalogue file, or in the options, over a built-in family.

An entry names a variant to start from and what differs. What it leaves out is that variant's.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from .generation import SchedulerName
from .variants import ALL, AUTO, Component, ComponentClass, Family, Source, Variant

# Deployments of the application that host no variant of that name.
_RESERVED = (AUTO, ALL, "router", "packed")
# More than anybody serves; a larger file is another one.
_MOST_ENTRIES = 200
_MAX_FILE_BYTES = 1024 * 1024


def _matching(pattern: str, words: str) -> Any:
    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"must be {words}")
        return value

    return AfterValidator(check)


VariantName = Annotated[
    str,
    # A deployment's name, and part of a label of Kubernetes.
    _matching(
        "[a-z0-9]([a-z0-9-]{0,48}[a-z0-9])?",
        "at most 50 lower-case letters, digits and hyphens, with no hyphen at either end",
    ),
]
_Folder = Annotated[
    str,
    # A single path segment, as the manifest has it, and without a dot, as its own name has one.
    _matching("[A-Za-z0-9_][A-Za-z0-9_-]{0,127}", "letters, digits, hyphens and underscores"),
]
_Repository = Annotated[
    str, _matching("[A-Za-z0-9._-]+/[A-Za-z0-9._-]+", "the name of a repository: OWNER/NAME")
]
_Steps = Annotated[int, Field(ge=1, le=150, strict=True)]
_Scale = Annotated[float, Field(ge=0, le=30, strict=True)]
_Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8, strict=True)]


class _Entry(BaseModel):
    """Refuses what isn't a mapping, and unknown keys: it says which was perhaps meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if isinstance(given, _Entry):
            return given
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if not isinstance(given, Mapping):
            raise ValueError(
                f"{given!r} was given; it must be a mapping, such as {{{known[0]}: ...}}"
            )
        for key in given:
            if key not in known:
                raise ValueError(f"{key!r} is unknown{_meant(str(key), known)}")
        return given


class ComponentEntry(_Entry):
    """A component: published in a repository, or a folder of the family folder."""

    folder: _Folder | None = Field(
        None,
        description="its folder in the family folder; when absent named after component and "
        "variant. Without a `repository`, one that is there, such as `vae_tiny`",
    )
    repository: _Repository | None = Field(None, description="where it is published: OWNER/NAME")
    revision: str = Field(
        "main", min_length=1, description="branch, tag or commit, in quotes where it is a number"
    )
    subfolder: str | None = Field(
        None,
        description="where it lies in the repository; when absent in a folder of diffusers' name, "
        'such as `unet`; `""`: at its top',
    )
    licence: str = Field("unknown", description="what `/v1/models` tells of it")
    component_class: Literal["AutoencoderKL", "AutoencoderTiny"] | None = Field(
        None, alias="class", description="of a `vae`; when absent that of the base's"
    )

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.repository is None and self.folder is None:
            raise ValueError("name a repository, or a folder that lies in the family folder")
        return self


class CatalogueEntry(_Entry):
    """A variant: the one to start from, and what differs; what is absent is the base's."""

    name: VariantName = Field(
        description="at most 50 lower-case letters, digits and hyphens; no hyphen at either end"
    )
    base: str = Field(description="the variant to start from: a built-in one, or another entry")
    description: str | None = Field(None, max_length=200, description="what `/v1/models` tells")
    unet: ComponentEntry | None = Field(None, description="where it is published, or its folder")
    vae: ComponentEntry | None = Field(None, description="as `unet`")
    text_encoder: ComponentEntry | None = Field(None, description="as `unet`")
    tokenizer: ComponentEntry | None = Field(None, description="as `unet`")
    scheduler: ComponentEntry | None = Field(
        None, description="as `unet`: its betas, and whether the UNet predicts noise or v"
    )
    preview_vae: ComponentEntry | None = Field(
        None, description="as `unet`; the VAE that decodes previews"
    )
    default_scheduler: SchedulerName | None = Field(
        None, description="the scheduler of requests that name none"
    )
    schedulers: tuple[SchedulerName, ...] | None = Field(
        None,
        min_length=1,
        description="the schedulers that requests may name; a UNet that was distilled to few steps "
        "takes `lcm`",
    )
    default_steps: _Steps | None = Field(None, description="the steps of requests that name none")
    max_steps: _Steps | None = Field(None, description="the most steps that requests may name")
    guidance_scale: _Scale | None = Field(
        None, description="the guidance of requests that name none"
    )
    max_guidance_scale: _Scale | None = Field(
        None, description="the most guidance that requests may name"
    )
    default_size_px: _Side | None = Field(
        None, description="both sides of pictures whose requests name no size; a multiple of 8"
    )
    min_size_px: _Side | None = Field(None, description="the shortest side that may be named")
    max_size_px: _Side | None = Field(None, description="the longest side that may be named")


_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "preview_vae")
_DEFAULTS_AND_BOUNDS = tuple(
    name for name in CatalogueEntry.model_fields if name not in (*_PARTS, "name", "base")
)


def read_catalogue(path: Path) -> tuple[CatalogueEntry, ...]:
    """Read a YAML file with a list of entries.

    Raises:
        ValueError: it can't be read, or an entry is wrong; names the file and the field.
    """
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise ValueError(f"{path}: over {_MAX_FILE_BYTES} bytes, the most that is allowed")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _UniqueKeys)
    except OSError as fault:
        raise ValueError(f"{path}: can't be read: {fault.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: must be text in UTF-8") from None
    except (yaml.YAMLError, RecursionError) as fault:
        raise ValueError(f"{path}: is not YAML: {' '.join(str(fault).split())}") from None
    if not isinstance(content, list):
        raise ValueError(f"{path}: must hold a list of variants, each `- name: ...`")
    try:
        return TypeAdapter(tuple[CatalogueEntry, ...]).validate_python(content)
    except ValidationError as fault:
        raise ValueError(f"{path}: {_first(fault)}") from None


class _UniqueKeys(yaml.SafeLoader):
    """YAML's own loader takes the last of two equal keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        found: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in found:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is there twice", key.start_mark
                )
            found.add(str(key.value))
        return super().construct_mapping(node, deep)


def with_entries(family: Family, entries: Sequence[CatalogueEntry]) -> Family:
    """The family with more variants, which are served only where they are named.

    Raises:
        ValueError: a name or a folder is taken, a base is unknown or goes in a circle, or defaults
            and bounds contradict each other; names the entry and the field.
    """
    if not entries:
        return family
    if len(entries) > _MOST_ENTRIES:
        raise ValueError(f"{len(entries)} entries were given; at most {_MOST_ENTRIES} are allowed")
    by_name: dict[str, CatalogueEntry] = {}
    for entry in entries:
        if entry.name in (*family.variants, *_RESERVED):
            raise ValueError(f"{entry.name}: name: is taken; choose another")
        if entry.name in by_name:
            raise ValueError(f"{entry.name}: name: two entries have it")
        by_name[entry.name] = entry
    known = family.components(family.variants, safety_checker=True)
    made = dict(family.variants)
    for entry in entries:
        for name in reversed(_line_of_bases(entry, by_name, family)):
            if name not in made:
                made[name] = _variant(by_name[name], made[by_name[name].base], known)
    # In the order in which they are written, whichever was needed first.
    return replace(family, variants={name: made[name] for name in (*family.variants, *by_name)})


def _line_of_bases(
    entry: CatalogueEntry, by_name: Mapping[str, CatalogueEntry], family: Family
) -> list[str]:
    """An entry's name, its base's, and so on, without the built-in one at the end."""
    line = [entry.name]
    while (base := by_name[line[-1]].base) not in family.variants:
        if base in line:
            circle = " -> ".join([*line[line.index(base) :], base])
            raise ValueError(f"{line[-1]}: base: goes in a circle: {circle}")
        if base not in by_name:
            known = [name for name in (*family.variants, *by_name) if name != line[-1]]
            raise ValueError(
                f"{line[-1]}: base: {base!r} was given{_meant(base, known)}; allowed in family "
                f"{family.name}: {', '.join(known)}"
            )
        line.append(base)
    return line


def _variant(entry: CatalogueEntry, base: Variant, known: dict[str, Component]) -> Variant:
    """A variant of an entry; adds its components to those that are `known` by folder."""
    changes: dict[str, Any] = {}
    for part in _PARTS:
        given: ComponentEntry | None = getattr(entry, part)
        if given is not None:
            like = getattr(base, part) or base.vae
            component = _component(entry.name, part, given, like, known)
            changes[part] = known[component.folder] = component
    changed = {name: getattr(entry, name) for name in _DEFAULTS_AND_BOUNDS}
    changes |= {name: value for name, value in changed.items() if value is not None}
    if "description" not in changes:
        changes["description"] = f"{base.name}, changed by configuration"
    variant = replace(base, name=entry.name, on_request=True, **changes)
    for complaint in _contradictions(variant):
        raise ValueError(f"{entry.name}: {complaint}")
    return variant


def _component(
    name: str, part: str, given: ComponentEntry, base: Component, known: Mapping[str, Component]
) -> Component:
    where = f"{name}: {part}"
    if given.component_class is not None and part not in ("vae", "preview_vae"):
        raise ValueError(f"{where}: class: only a vae may be of another one")
    folder = given.folder or f"{part}_{name}".replace("-", "_")
    there = known.get(folder)
    if given.repository is None and there is not None:
        vaes = ("AutoencoderKL", "AutoencoderTiny")
        allowed = vaes if base.component_class in vaes else (base.component_class,)
        if there.component_class not in allowed:
            raise ValueError(
                f"{where}: folder: {folder!r} holds {there.component_class}; "
                f"{base.component_class} is needed"
            )
        if given.component_class not in (None, there.component_class):
            raise ValueError(f"{where}: class: {folder!r} holds {there.component_class}")
        return there
    component_class: ComponentClass = given.component_class or base.component_class
    like = base.architecture
    if component_class != base.component_class:
        like = next(
            other.folder
            for other in known.values()
            if other.component_class == component_class and other.like is None
        )
    source = None
    if given.repository is not None:
        subfolder = (
            part.replace("preview_vae", "vae") if given.subfolder is None else given.subfolder
        )
        source = Source(given.repository, given.revision, subfolder or None, given.licence)
    licence = given.licence if source is None else None
    component = Component(folder, component_class, source, like=like, licence=licence)
    if there is not None and there != component:
        raise ValueError(
            f"{where}: folder: {folder!r} holds something else already; choose another, or leave "
            "it out (entries that only name a folder come after the one with its repository)"
        )
    return component


def _contradictions(variant: Variant) -> list[str]:
    """What defaults and bounds say against each other."""
    found = []
    if variant.default_scheduler not in variant.schedulers:
        found.append(
            f"default_scheduler: {variant.default_scheduler!r}; schedulers allows "
            f"{', '.join(variant.schedulers)}"
        )
    if variant.default_steps > variant.max_steps:
        found.append(
            f"default_steps: {variant.default_steps} are over max_steps, {variant.max_steps}"
        )
    if variant.guidance_scale > variant.max_guidance_scale:
        found.append(
            f"guidance_scale: {variant.guidance_scale:g} is over max_guidance_scale, "
            f"{variant.max_guidance_scale:g}"
        )
    if not variant.min_size_px <= variant.default_size_px <= variant.max_size_px:
        found.append(
            f"default_size_px: {variant.default_size_px} is not from min_size_px, "
            f"{variant.min_size_px}, to max_size_px, {variant.max_size_px}"
        )
    return found


def _meant(given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _first(fault: ValidationError) -> str:
    """The first complaint, with the field's place: entries count from 1."""
    first = fault.errors()[0]
    index, *fields = first["loc"]
    where = ".".join(map(str, fields))
    words = {
        "missing": "missing",
        "string_type": f"{first['input']!r} was given; it must be text, in quotes",
        "tuple_type": f"{first['input']!r} was given; it must be a list",
    }.get(first["type"], first["msg"].removeprefix("Value error, "))
    return f"entry {int(index) + 1}: {f'{where}: ' if where else ''}{words}"
