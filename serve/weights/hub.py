"""Downloads a family with huggingface_hub, and pins what it got in the manifest.

The hub's own client does the transfer, so its settings mean what its users expect: `HF_TOKEN`,
`HF_ENDPOINT`, `HF_HOME` and `HF_HUB_CACHE`, progress bars, and a transfer whose connection breaks
goes on where it stopped. A run that was ended goes on with the file that it was at. What is added
here: only the files that the variants need, each compared with the sha256 that the hub or an
earlier manifest names.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download

from ..errors import WeightsError
from ..variants import Component, Family, Source
from .hub_errors import explained
from .manifest import Manifest, Origin, PinnedComponent, PinnedFile, held, pin_file, write_manifest

# All that a tokenizer may consist of; the published repositories hold the pair, vocab and merges.
_TOKENIZER_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


@dataclass(frozen=True)
class _Remote:
    """One file as the hub lists it; `sha256` is None for small files outside its large storage."""

    name: str
    bytes: int
    sha256: str | None


def download_family(
    folder: Path,
    family: Family,
    variants: list[str],
    *,
    mirrors: Mapping[str, str],
    safety_checker: bool = False,
    update: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Manifest:
    """Bring a family folder to hold what the named variants need, shared components once.

    What the folder's manifest pins already is downloaded again only where it is missing or
    damaged, from the pinned commit, and must be the same bytes.

    Args:
        folder: the family folder; made if absent.
        family: what to download.
        variants: of which variants.
        mirrors: repositories to take in place of the catalogue's: `{"a/b": "c/d@revision"}`.
        safety_checker: also what checks their pictures.
        update: forget what is pinned, and resolve the catalogue's revisions anew.
        tell: told what happens, a line at a time.

    Raises:
        WeightsError: says what went wrong, with which repository, and what to do.
    """
    components = family.components(variants, safety_checker=safety_checker)
    if any(component.source is None for component in components.values()):
        raise WeightsError(
            f"family: {family.name!r} is shipped with this repository; there is nothing to download"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        manifest = held(folder, family.name, {"hub"})
        write_manifest(folder, manifest)
        pinned_before = {} if update else manifest.components
        # All components of a repository come from one commit, also over several runs, unless an
        # update concerns some of them only.
        commits = {one.origin.repository: one.origin.revision for one in pinned_before.values()}
        for component in components.values():
            assert component.source is not None  # Checked above.
            source = _mirrored(component.source, mirrors)
            pinned = pinned_before.get(component.folder)
            if pinned is None:
                commit = commits.get(source.repository) or source.revision
                with explained(source):
                    pinned = _fetch_new(folder, component, source, commit, tell)
                commits[source.repository] = pinned.origin.revision
            else:
                if source == component.source:  # No mirror: from where it came.
                    source = _pinned_source(source, pinned.origin)
                with explained(source):
                    _fetch_pinned(folder, component, source, pinned, tell)
            manifest = manifest.model_copy(
                update={"components": {**manifest.components, component.folder: pinned}}
            )
            # After each component: a run that is cut short keeps what it has.
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
    tell: Callable[[str], object],
) -> PinnedComponent:
    info = HfApi().model_info(source.repository, revision=revision, files_metadata=True)
    if info.sha is None:
        raise WeightsError(f"{source.repository}: the hub names no commit for {revision!r}")
    if info.id != source.repository:
        tell(f"  {source.repository} is now called {info.id}")
        source = replace(source, repository=info.id)
    prefix = f"{source.subfolder}/" if source.subfolder else ""
    listed = {
        sibling.rfilename.removeprefix(prefix): _Remote(
            sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None
        )
        for sibling in info.siblings or ()
        if sibling.rfilename.startswith(prefix)
    }
    chosen = _choose(component, set(listed), f"{source.repository}/{prefix}")
    _check_space(folder, sum(listed[name].bytes for name in chosen))
    tell(f"{component.folder}: {source.repository} at {info.sha[:12]} ({source.licence})")
    files = {}
    for name in chosen:
        remote = listed[name]
        got = _download(source, remote.name, info.sha)
        files[name] = _placed(got, folder / component.folder / name, remote.sha256)
    for path in (folder / component.folder).iterdir():
        if path.name not in chosen:  # What an earlier version consisted of.
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
    tell: Callable[[str], object],
) -> None:
    """Complete what the manifest names; from its commit, or from a mirror with the same bytes."""
    wanted = {
        name: file
        for name, file in pinned.files.items()
        if not (path := folder / component.folder / name).is_file() or pin_file(path) != file
    }
    if not wanted:
        tell(f"{component.folder}: complete")
        return
    _check_space(folder, sum(file.bytes for file in wanted.values()))
    tell(f"{component.folder}: {source.repository} at {source.revision[:12]}, as pinned")
    for name, file in wanted.items():
        remote = f"{source.subfolder}/{name}" if source.subfolder else name
        got = _download(source, remote, source.revision)
        _placed(got, folder / component.folder / name, file.sha256)


def _choose(component: Component, names: set[str], where: str) -> list[str]:
    """The files of a component, by exact names: nothing else in a repository is ever asked for."""
    if component.component_class == "CLIPTokenizer":
        found = [name for name in _TOKENIZER_FILES if name in names]
        if "tokenizer.json" in found or {"vocab.json", "merges.txt"} <= set(found):
            return found
        raise WeightsError(f"{where}: holds no tokenizer (vocab.json and merges.txt)")
    if component.component_class == "PNDMScheduler":
        return _present(["scheduler_config.json"], names, where)
    if component.component_class == "CLIPImageProcessor":
        return _present(["preprocessor_config.json"], names, where)
    of_transformers = component.component_class in ("CLIPTextModel", "StableDiffusionSafetyChecker")
    stem = "model" if of_transformers else "diffusion_pytorch_model"
    for weights in (f"{stem}.fp16.safetensors", f"{stem}.safetensors"):
        if weights in names:
            return _present(["config.json", weights], names, where)
    if any(name.endswith(_PICKLES) for name in names):
        raise WeightsError(
            f"{where}: holds its weights as pickles only, and loading a pickle runs code; name a "
            "mirror that holds safetensors with --mirror (a revision such as refs/pr/1 will do)"
        )
    raise WeightsError(f"{where}: holds no {stem}.safetensors")


def _present(wanted: list[str], names: set[str], where: str) -> list[str]:
    for name in wanted:
        if name not in names:
            raise WeightsError(f"{where}: holds no {name}")
    return wanted


def _download(source: Source, path: str, revision: str) -> Path:
    """Fetch into the hub's cache, or find it there; the file itself, not the cache's link."""
    return Path(hf_hub_download(source.repository, path, revision=revision)).resolve()


def _placed(got: Path, target: Path, sha256: str | None) -> PinnedFile:
    """Move a file from the cache to its place, where it is the one that was promised."""
    pinned = pin_file(got)
    if sha256 is not None and pinned.sha256 != sha256:
        got.unlink()  # Or the next try would find the damaged file in the cache again.
        raise WeightsError(
            f"{target}: what was downloaded has sha256 {pinned.sha256}, but {sha256} is expected; "
            "it was dropped. Run it again; if it stays so, the file has changed at its source: "
            "--update takes the new one"
        )
    target.parent.mkdir(exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        os.link(got, partial)  # No second copy on the disk, where cache and folder share one.
    except OSError:
        shutil.copyfile(got, partial)
    partial.chmod(0o644)
    partial.replace(target)
    return pinned


def _check_space(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise WeightsError(
            f"{folder}: {needed_bytes / 1e9:.1f} GB are to be downloaded, "
            f"but only {free_bytes / 1e9:.1f} GB are free"
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One download at a time into a folder; the lock goes with the process."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise WeightsError(f"{folder}: another download into this folder runs") from None
        yield
    finally:
        os.close(lock)
