"""Makes component folders of a single-file checkpoint, and the catalogue entry for them.

A single file has the UNet, the VAE and the text encoder of Stable Diffusion v1 under the names that
CompVis' code gave their tensors. diffusers' converter maps names; this module adds: what is no such
file is refused before anything is written, and nothing is ever unpickled.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
)
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from ..errors import WeightsError
from ..own_variants import CatalogueEntry, with_entries
from ..variants import Component, Family, Variant
from .check import check_family
from .layout import UNFINISHED_DIR, architecture_dir, precision_suffix
from .manifest import (
    UNKNOWN_LICENCE,
    Manifest,
    Origin,
    PinnedComponent,
    PinnedFile,
    pin,
    read_manifest,
    write_manifest,
)
from .random_values import build_model
from .saving import check_space, locked, save_fp16

# Where CompVis' code has them; what else a file holds, such as averages of training, is ignored.
_PREFIXES = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
# In some files: a constant, CLIP's other half, the loss of a VAE's training. No picture needs them.
_UNUSED = re.compile(r"\.(embeddings\.position_ids|text_projection\.weight|logit_scale)$|\.loss\.")
_DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
_OTHER_KINDS = (
    (re.compile(r"conditioner\.embedders\."), "a checkpoint of Stable Diffusion XL"),
    (re.compile(r"cond_stage_model\.model\."), "a checkpoint of Stable Diffusion 2"),
    (re.compile(r"lora_|.*\.lora[._]"), "a LoRA, not a checkpoint"),
    (
        re.compile(r"((en|de)coder\.)?(down|up)_blocks\.|text_model\."),
        "a component in diffusers' layout; copy its folder into the family folder, and pin it with "
        "`adopt`",
    ),
)
_OTHER_UNETS = {
    ("input_blocks.0.0.weight", 9): "an inpainting checkpoint",
    ("attn2.to_k.weight", 1024): "a checkpoint of Stable Diffusion 2",
    ("attn2.to_k.weight", 2048): "a checkpoint of Stable Diffusion XL",
}
_ALLOWED = "allowed: checkpoints of Stable Diffusion v1"
# What trainers put into a file to mark it: its UNet predicts v, its betas end without any signal.
_PREDICTS_V, _ZERO_SNR = "v_pred", "ztsnr"
# How torch.save's files begin: a zip with a pickle in it, and before 1.6 a pickle of protocol 2.
_PICKLES = (b"PK\x03\x04", b"\x80\x02")


def convert_file(
    file: Path,
    folder: Path,
    family: Family,
    *,
    name: str,
    base: str,
    licence: str | None,
    report: Callable[[str], object] = lambda line: None,
) -> str:
    """Add a single-file checkpoint's components to a family folder, as fp16.

    Text encoder and VAE are written only where the file has some that differ from the base's. What
    a killed run leaves is ignored by all other commands, and removed by the next conversion.

    Args:
        file: the checkpoint: safetensors, in any precision.
        folder: the family folder, with everything that the base needs.
        family: the family that the folder holds.
        name: of the new variant.
        base: the built-in variant to start from, which has the file's architecture.
        licence: of the checkpoint; None keeps what is recorded from an earlier run.
        report: called with each line of progress.

    Returns:
        The entry for a catalogue file, as YAML.

    Raises:
        WeightsError: the file is something else, or doesn't fit the base; the name is taken; or the
            folder is not what it must be.
    """
    _check_name(family, name, base)
    variant = family.variants[base]
    read_manifest(folder)  # Says how to get one, also where there is no folder.
    written: dict[str, str] = {}
    with _opened(file) as tensors, locked(folder):
        manifest = check_family(folder, family, [base])
        given = _given(file, tensors, variant)
        models = {part: _model(file, family, variant, part, given[part]) for part in given}
        needed_bytes = sum(2 * value.numel() for part in given.values() for value in part.values())
        check_space(folder, needed_bytes)
        predicts_v = _PREDICTS_V in tensors.keys()  # noqa: SIM118 - no dictionary
        # Before minutes of reading; whether VAE and text encoder are written is known only then.
        for part in ("unet", "scheduler") if predicts_v else ("unet",):
            _check_free(folder, manifest, _folder_of(part, name))
        unfinished = folder / UNFINISHED_DIR
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        try:
            for part, shapes in given.items():
                model = models.pop(part)  # One at a time in memory.
                _read(file, tensors, part, shapes, model)
                own: Component = getattr(variant, part)
                if part != "unet" and _is_equal(model, folder / own.folder):
                    report(f"{part}: equal to {own.folder}")
                    continue
                written[part] = _folder_of(part, name)
                report(f"{part}: {folder / written[part]}")
                save_fp16(model, unfinished / written[part])
            if predicts_v:
                written["scheduler"] = _folder_of("scheduler", name)
                report(f"scheduler: {folder / written['scheduler']}, for a UNet that predicts v")
                _write_scheduler(
                    folder / variant.scheduler.folder, unfinished, written["scheduler"]
                )
            pinned = _install(folder, manifest, list(written.values()), licence)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    for part in _PREFIXES:
        if part not in given:
            report(f"{part}: not in the file, or of another kind; {base} has its own")
    parts = {part: {"folder": component} for part, component in written.items()}
    for entry in parts.values():
        if (recorded := pinned[entry["folder"]].origin.licence) != UNKNOWN_LICENCE:
            entry["licence"] = recorded
    return yaml.safe_dump([{"name": name, "base": base, **parts}], sort_keys=False)


def _folder_of(part: str, name: str) -> str:
    return f"{part}_{name}".replace("-", "_")


def _check_name(family: Family, name: str, base: str) -> None:
    if base not in family.variants:
        raise WeightsError(
            f"base: {base!r} was given; only built-in variants are allowed: "
            f"{', '.join(family.variants)}"
        )
    try:
        with_entries(family, [CatalogueEntry(name=name, base=base)])
    except ValidationError as fault:
        words = fault.errors()[0]["msg"].removeprefix("Value error, ")
        raise WeightsError(f"name: {name!r} was given; it {words}") from None
    except ValueError as fault:
        raise WeightsError(str(fault)) from None
    built_in = family.components(family.variants, safety_checker=True)
    for part in _PREFIXES:
        if (folder := _folder_of(part, name)) in built_in:
            raise WeightsError(f"name: {name!r} was given, but {folder} is a folder of the family")


def _opened(file: Path) -> Any:
    if not file.is_file():
        raise WeightsError(f"{file}: is not a file")
    try:
        # Opening compares the header's offsets with the file's size: a cut file fails here.
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as fault:
        with file.open("rb") as content:
            start = content.read(4)
        if start.startswith(_PICKLES):
            raise WeightsError(
                f"{file}: is a pickle, and loading one runs code; allowed: safetensors"
            ) from None
        raise WeightsError(f"{file}: is not safetensors, or truncated: {fault}") from None


def _given(file: Path, tensors: Any, variant: Variant) -> dict[str, dict[str, torch.Tensor]]:
    """What the file has of each part, without values: tensors on the meta device."""
    keys = sorted(tensors.keys())
    for pattern, kind in _OTHER_KINDS:
        if found := next(filter(pattern.match, keys), None):
            raise WeightsError(f"{file}: is {kind} (it has {found!r}); {_ALLOWED}")
    if _ZERO_SNR in keys:
        raise WeightsError(
            f"{file}: is marked {_ZERO_SNR!r}: its betas end without any signal, which not all "
            "schedulers here can do"
        )
    given: dict[str, dict[str, torch.Tensor]] = {}
    for part, prefix in _PREFIXES.items():
        names = [key for key in keys if key.startswith(prefix) and not _UNUSED.search(key)]
        if names and getattr(variant, part).component_class != "AutoencoderTiny":
            slices = {key: tensors.get_slice(key) for key in names}
            for key, values in slices.items():
                if (dtype := values.get_dtype()) not in _DTYPES:
                    raise WeightsError(f"{file}: {key} is {dtype}; allowed: {', '.join(_DTYPES)}")
            shapes = {key: values.get_shape() for key, values in slices.items()}
            given[part] = {key: torch.empty(shapes[key], device="meta") for key in shapes}
    if "unet" not in given:
        missing = [part for part in _PREFIXES if part not in given]
        raise WeightsError(
            f"{file}: lacks {', '.join(missing)} (no tensor is named {_PREFIXES['unet']}*); "
            f"it has {', '.join(keys[:3]) or 'no tensors'}"
        )
    for key, value in given["unet"].items():
        for (ending, channels), kind in _OTHER_UNETS.items():
            if key.endswith(ending) and value.shape[1:2] == (channels,):
                raise WeightsError(f"{file}: is {kind} ({key}: {channels} channels); {_ALLOWED}")
    return given


def _model(
    file: Path, family: Family, variant: Variant, part: str, given: Mapping[str, torch.Tensor]
) -> Any:
    """The base's model without values, if that is what the file has values for."""
    model = _empty_model(family, getattr(variant, part))
    misfit = _misfit(part, given, model)
    if misfit is None:
        return model
    fitting = [
        other.name
        for other in family.variants.values()
        if getattr(other, part).component_class == getattr(variant, part).component_class
        and _misfit(part, given, _empty_model(family, getattr(other, part))) is None
    ]
    hint = f"; it fits --base {fitting[0]}" if fitting else ""
    raise WeightsError(f"{file}: its {part} doesn't fit {variant.name!r}: {misfit}{hint}")


def _empty_model(family: Family, component: Component) -> Any:
    with torch.device("meta"):
        return build_model(component, architecture_dir(family.name) / component.architecture)


def _misfit(part: str, given: Mapping[str, torch.Tensor], model: Any) -> str | None:
    """The first difference between a part of the file and a model, if any."""
    for key, value in given.items():
        # Written as a convolution, of which the converter takes the middle.
        if ".attn_1." in key and any(length != 1 for length in value.shape[2:]):
            return f"{key} has shape {list(value.shape)}"
    converted = _converted(part, given, model)
    wanted = model.state_dict()
    for key, value in wanted.items():
        if (found := converted.get(key)) is None:
            return f"{key} is missing"
        if found.shape != value.shape:
            return f"{key} has shape {list(found.shape)}, not {list(value.shape)}"
    used = {id(value) for value in converted.values()}
    # A VAE's attention is reshaped, which makes tensors of their own.
    unused = [key for key in given if id(given[key]) not in used and ".attn_1." not in key]
    for key in (*unused, *(converted.keys() - wanted.keys())):
        return f"{key} is unknown to it"
    return None


def _converted(part: str, given: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """A part's tensors under diffusers' or transformers' names."""
    if part == "unet":
        return dict(convert_ldm_unet_checkpoint(given, model.config))
    if part == "vae":
        return dict(convert_ldm_vae_checkpoint(given, model.config))
    # The names in files and those of transformers' versions are with or without this prefix.
    inner = "text_model."
    prefix = inner if any(name.startswith(inner) for name in model.state_dict()) else ""
    named = convert_ldm_clip_checkpoint(given)
    return {prefix + name.removeprefix(inner): value for name, value in named.items()}


def _read(file: Path, tensors: Any, part: str, keys: Iterable[str], model: Any) -> None:
    """Give a model the file's values, each cast to fp16 as it is read."""
    values: dict[str, torch.Tensor] = {}
    for key in keys:
        values[key] = tensors.get_tensor(key).half()
        if not values[key].isfinite().all():
            raise WeightsError(f"{file}: {key} has values that are NaN, or infinite in fp16")
    model.load_state_dict(_converted(part, values, model), assign=True)


def _is_equal(model: Any, component_dir: Path) -> bool:
    """Whether a component has exactly these values, after a cast to fp16."""
    other = type(model).from_pretrained(
        component_dir,
        dtype=torch.float16,
        variant=precision_suffix(component_dir),
        use_safetensors=True,
        local_files_only=True,
    )
    own = other.state_dict()
    values = model.state_dict()
    return own.keys() == values.keys() and all(torch.equal(own[key], values[key]) for key in own)


def _write_scheduler(base_dir: Path, unfinished: Path, name: str) -> None:
    """The base's scheduler, but for what the UNet predicts."""
    (unfinished / name).mkdir(parents=True)
    config = json.loads((base_dir / "scheduler_config.json").read_text(encoding="utf-8"))
    config["prediction_type"] = "v_prediction"
    path = unfinished / name / "scheduler_config.json"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_free(
    folder: Path, manifest: Manifest, name: str, files: Mapping[str, PinnedFile] | None = None
) -> None:
    """Refuse a folder of other files than these, or where they aren't known, of another origin."""
    before = manifest.components.get(name)
    if before and (before.origin.kind != "local" or files not in (None, before.files)):
        raise WeightsError(f"{folder / name}: holds something else already; choose another name")


def _install(
    folder: Path, manifest: Manifest, names: Iterable[str], licence: str | None
) -> dict[str, PinnedComponent]:
    """Move finished components into a family folder, and pin them.

    Pinned first: files that are missing concern only who needs them, unknown ones everybody.
    """
    pinned = {}
    for name in names:
        before = manifest.components.get(name)
        recorded = before.origin.licence if before else UNKNOWN_LICENCE
        origin = Origin(kind="local", licence=licence or recorded)
        pinned[name] = pin(folder / UNFINISHED_DIR / name, origin)
        _check_free(folder, manifest, name, pinned[name].files)
    components = {**manifest.components, **pinned}
    write_manifest(folder, manifest.model_copy(update={"components": components}))
    for name, component in pinned.items():
        if not (folder / name).is_dir() or pin(folder / name, component.origin) != component:
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / UNFINISHED_DIR / name).rename(folder / name)
    return pinned
