"""Downloads a family with huggingface_hub, and pins its files in the manifest.

huggingface_hub does the transfer, so `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_CACHE` work
as usual, and so do progress bars and resumed transfers. This module adds: only the files that the
variants need, each checked against the sha256 that the hub or an earlier manifest names.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from ..catalogue import family as built_in
from ..errors import WeightsError
from ..variants import Component, Family, Source
from .check import check_local
from .fit import wrong_class
from .hub_errors import as_weights_errors
from .layout import config_name
from .manifest import (
    LoraOrigin,
    Manifest,
    Origin,
    PinnedComponent,
    PinnedFile,
    manifest_before_writing,
    pin,
    pin_file,
    write_manifest,
)
from .saving import check_space, locked

# Every file that a tokenizer may have; the published repositories have vocab and merges.
_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)
# diffusers' name for a LoRA's file.
_LORA_FILE = "pytorch_lora_weights.safetensors"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def download_family(
    folder: Path,
    family: Family,
    variants: list[str],
    *,
    mirrors: Mapping[str, str],
    safety_checker: bool = False,
    update: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> Manifest:
    """Download the components that the named variants need, shared ones once.

    Files that the folder's manifest pins are downloaded again only if they are missing or damaged,
    from the pinned commit, and must have the pinned sha256. Components without a source are left as
    they are.

    Args:
        folder: the family folder; created if absent.
        family: the family to download.
        variants: whose components to download.
        mirrors: repositories that replace the catalogue's: `{"a/b": "c/d@revision"}`.
        safety_checker: also download their safety checker.
        update: ignore pinned commits, and resolve the catalogue's revisions anew.
        report: called with each line of progress.

    Raises:
        WeightsError: names the repository, or the folder of a component without a source, the
            reason, and what to do.
    """
    everything = family.components(family.variants, safety_checker=True)
    needed = family.components(variants, safety_checker=safety_checker)
    bases = {c.architecture: everything[c.architecture] for c in needed.values() if c.lora}
    components = {**bases, **needed}
    if not any(component.source for component in everything.values()):
        raise WeightsError(
            f"family: {family.name!r} is part of this repository; there is nothing to download"
        )
    shared = built_in(family.name)
    built_in_folders = set(shared.components(shared.variants, safety_checker=True))
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        published = {name: part for name, part in everything.items() if part.source}
        kinds = {name: "merged" if part.lora else "hub" for name, part in published.items()}
        manifest = manifest_before_writing(folder, family.name, kinds)
        for component in components.values():
            if component.source is None:
                check_local(folder, component, manifest)
        write_manifest(folder, manifest)
        pinned_before = {} if update else manifest.components
        # All components of a repository and revision come from one commit, over several runs, too,
        # unless `update` replaces only some of them.
        commits = {
            (pinned.origin.repository, _mirrored(source, mirrors).revision): pinned.origin.revision
            for name, pinned in pinned_before.items()
            if name in published and (source := published[name].source)
        }
        for component in components.values():
            if component.source is None:
                report(f"{component.folder}: local, as it is")
                continue
            source = _mirrored(component.source, mirrors)
            pinned = pinned_before.get(component.folder)
            if component.lora is not None:
                base = manifest.components[component.architecture]
                source = _mirrored(component.lora, mirrors)
                with as_weights_errors(source):
                    pinned = _fetch_merged(
                        folder, component, component.lora, source, base, pinned, report
                    )
            elif pinned is None:
                commit = commits.get((source.repository, source.revision)) or source.revision
                own = component.folder not in built_in_folders and source == component.source
                with as_weights_errors(source, own_entry=own):
                    pinned = _fetch_new(folder, component, source, commit, report)
                commits[source.repository, source.revision] = pinned.origin.revision
            else:
                if source == component.source:  # Not mirrored: from its pinned origin.
                    source = _pinned_source(source, pinned.origin)
                with as_weights_errors(source):
                    _fetch_pinned(folder, component, source, pinned, report)
            manifest = manifest.model_copy(
                update={"components": {**manifest.components, component.folder: pinned}}
            )
            # After each component, so that an interrupted run keeps what is complete.
            write_manifest(folder, manifest)
    return manifest


def _mirrored(source: Source, mirrors: Mapping[str, str]) -> Source:
    if source.repository not in mirrors:
        return source
    repository, _, revision = mirrors[source.repository].partition("@")
    return replace(source, repository=repository, revision=revision or source.revision)


def _pinned_source(source: Source, origin: Origin) -> Source:
    return replace(
        source,
        repository=origin.repository or source.repository,
        revision=origin.revision or source.revision,
    )


def _fetch_new(
    folder: Path,
    component: Component,
    source: Source,
    revision: str,
    report: Callable[[str], object],
) -> PinnedComponent:
    info = HfApi().model_info(source.repository, revision=revision, files_metadata=True)
    if info.sha is None:
        raise WeightsError(f"{source.repository}: the hub gives no commit for {revision!r}")
    if info.id != source.repository:
        report(f"  {source.repository} is now called {info.id}")
        source = replace(source, repository=info.id)
    prefix = f"{source.subfolder}/" if source.subfolder else ""
    listed = {
        sibling.rfilename.removeprefix(prefix): sibling
        for sibling in info.siblings or ()
        if sibling.rfilename.startswith(prefix)
    }
    at_top = {sibling.rfilename for sibling in info.siblings or ()}
    if not listed and config_name(component) in at_top:
        raise WeightsError(
            f"{source.repository}/{prefix}: is empty, but {config_name(component)} lies at the "
            'repository\'s top; in the entry of a catalogue, set `subfolder: ""`'
        )
    chosen = _choose(component, set(listed), f"{source.repository}/{prefix}")
    check_space(folder, sum(listed[name].size or 0 for name in chosen))
    report(f"{component.folder}: {source.repository} at {info.sha[:12]} ({source.licence})")
    files = {}
    for name in chosen:
        remote = listed[name]
        cached = _download(source, remote.rfilename, info.sha)
        if name == config_name(component):
            _check_class(component, cached, f"{source.repository}/{remote.rfilename}")
        # The hub names the sha256 of large files only.
        sha256 = remote.lfs.sha256 if remote.lfs else None
        files[name] = _install(cached, folder / component.folder / name, sha256)
    for path in (folder / component.folder).iterdir():
        if path.name not in chosen:  # From an earlier version.
            path.unlink()
    origin = Origin(
        kind="hub", licence=source.licence, repository=source.repository, revision=info.sha
    )
    return PinnedComponent(origin=origin, files=files)


def _fetch_pinned(
    folder: Path,
    component: Component,
    source: Source,
    pinned: PinnedComponent,
    report: Callable[[str], object],
) -> None:
    """Download pinned files that are missing or damaged, from their commit or a mirror."""
    wanted = {
        name: file
        for name, file in pinned.files.items()
        if not (path := folder / component.folder / name).is_file() or pin_file(path) != file
    }
    if not wanted:
        origin = f"{pinned.origin.repository} at {(pinned.origin.revision or '')[:12]}"
        report(f"{component.folder}: complete, {origin}, as pinned")
        return
    check_space(folder, sum(file.bytes for file in wanted.values()))
    report(f"{component.folder}: {source.repository} at {source.revision[:12]}, as pinned")
    for name, file in wanted.items():
        remote = f"{source.subfolder}/{name}" if source.subfolder else name
        cached = _download(source, remote, source.revision)
        _install(cached, folder / component.folder / name, file.sha256)


def _fetch_merged(
    folder: Path,
    component: Component,
    lora: Source,
    source: Source,
    base: PinnedComponent,
    pinned: PinnedComponent | None,
    report: Callable[[str], object],
) -> PinnedComponent:
    """Merge a LoRA into the base component, unless that is done; the LoRA's commit stays pinned."""
    before = None if pinned is None else pinned.origin.lora
    component_dir = folder / component.folder
    same_base = pinned is not None and pinned.origin.revision == base.origin.revision
    if pinned is not None and same_base and _complete(component_dir, pinned):
        report(f"{component.folder}: complete")
        return pinned
    if before is not None and source == lora:  # Not mirrored: from its pinned origin.
        source = replace(source, repository=before.repository, revision=before.revision)
    info = HfApi().model_info(source.repository, revision=source.revision, files_metadata=True)
    listed = {sibling.rfilename: sibling for sibling in info.siblings or ()}
    if info.sha is None or _LORA_FILE not in listed:
        raise WeightsError(f"{source.repository}: has no {_LORA_FILE}")
    check_space(folder, sum(file.bytes for file in base.files.values()))
    report(f"{component.folder}: {source.repository} at {info.sha[:12]} ({lora.licence})")
    cached = _download(source, _LORA_FILE, info.sha)
    remote = listed[_LORA_FILE]
    expected = before.sha256 if before else remote.lfs.sha256 if remote.lfs else None
    sha256 = _checked(cached, f"{source.repository}/{_LORA_FILE}", expected).sha256
    report(f"{component.folder}: merging it into a copy of {component.architecture} ...")
    from .merging import merge_lora  # Imports torch and peft: seconds.

    shutil.rmtree(component_dir, ignore_errors=True)
    merge_lora(folder / component.architecture, cached, component_dir)
    origin = Origin(
        kind="merged",
        licence=f"{base.origin.licence} and {lora.licence}",
        repository=base.origin.repository,
        revision=base.origin.revision,
        lora=LoraOrigin(repository=source.repository, revision=info.sha, sha256=sha256),
    )
    return pin(component_dir, origin)


def _complete(component_dir: Path, pinned: PinnedComponent) -> bool:
    paths = {name: component_dir / name for name in pinned.files}
    return all(
        path.is_file() and pin_file(path) == pinned.files[name] for name, path in paths.items()
    )


def _choose(component: Component, names: set[str], where: str) -> list[str]:
    """The files of a component, by exact names; nothing else in a repository is ever requested."""
    if component.component_class == "CLIPTokenizer":
        found = [name for name in _TOKENIZER_FILES if name in names]
        if "tokenizer.json" in found or {"vocab.json", "merges.txt"} <= set(found):
            return found
        raise WeightsError(f"{where}: has no tokenizer (vocab.json and merges.txt)")
    if not component.has_weights:
        return _present([config_name(component)], names, where)
    of_transformers = component.component_class in ("CLIPTextModel", "StableDiffusionSafetyChecker")
    stem = "model" if of_transformers else "diffusion_pytorch_model"
    for weights in (f"{stem}.fp16.safetensors", f"{stem}.safetensors"):
        if weights in names:
            return _present([config_name(component), weights], names, where)
    if any(name.endswith(_PICKLES) for name in names):
        raise WeightsError(
            f"{where}: has its weights as pickles only, and loading a pickle runs code; name a "
            "mirror with safetensors with --mirror (or a revision such as refs/pr/1)"
        )
    raise WeightsError(f"{where}: has no {stem}.safetensors")


def _check_class(component: Component, config: Path, where: str) -> None:
    """Refuse a model of another class before its weights are downloaded."""
    try:
        content = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise WeightsError(f"{where}: must hold a JSON object")
    if complaint := wrong_class(component, content):
        raise WeightsError(
            f"class: {where} {complaint}; an entry's `class` says which of the VAEs' it is"
        )


def _present(wanted: list[str], names: set[str], where: str) -> list[str]:
    if missing := [name for name in wanted if name not in names]:
        raise WeightsError(f"{where}: has no {missing[0]}")
    return wanted


def _download(source: Source, path: str, revision: str) -> Path:
    """Download into huggingface_hub's cache, unless it is there; returns the file, not the link."""
    return Path(hf_hub_download(source.repository, path, revision=revision)).resolve()


def _install(cached: Path, target: Path, sha256: str | None) -> PinnedFile:
    """Put a file from the cache in its place, if it has the expected sha256."""
    pinned = _checked(cached, str(target), sha256)
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(cached, partial)  # No second copy, if cache and folder share a disk.
    except OSError:
        shutil.copyfile(cached, partial)
    partial.chmod(0o644)
    partial.replace(target)
    return pinned


def _checked(cached: Path, name: str, sha256: str | None) -> PinnedFile:
    """The size and hash of a file in the cache, if it has the expected sha256."""
    pinned = pin_file(cached)
    if sha256 is not None and pinned.sha256 != sha256:
        cached.unlink()  # Or the next run would find the damaged file in the cache.
        raise WeightsError(
            f"{name}: the download has sha256 {pinned.sha256}, but {sha256} is expected; "
            "it was deleted. Run it again; if this persists, the file has changed at its source: "
            "--update takes the new one"
        )
    return pinned
