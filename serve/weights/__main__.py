"""`python -m serve.weights`: download, make, pin and verify family folders."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from pydantic_settings import SettingsError
from tqdm import tqdm

from ..catalogue import family
from ..errors import WeightsError
from ..own_variants import read_catalogue, with_entries
from ..settings import HubSettings
from ..variants import ALL, Family, FamilyName
from .check import check_component, differences, refused_entries
from .layout import architecture_dir
from .manifest import (
    MANIFEST_NAME,
    UNKNOWN_LICENCE,
    Manifest,
    Origin,
    PinnedComponent,
    manifest_before_writing,
    pin,
    read_manifest,
    write_manifest,
)

_RANDOM_LICENCE = "Apache-2.0"
_VARIANTS_HELP = "a,b: these variants' components, or all; default: the family's first three"
_CONVERT = (
    "add the components of a single-file checkpoint to a family folder, and print the entry for a "
    "catalogue file"
)
_LOCAL_LICENCE = "unknown: adopted local files"


def main() -> int:
    """Run a command; returns the exit status: 0, or 1 with a line per problem on stderr."""
    args = _parser().parse_args()
    try:
        return int(args.command(args))
    except WeightsError as fault:
        return _refuse(fault.message)
    except (SettingsError, ValidationError) as fault:
        return _refuse(f"DSD_MIRRORS: must be a JSON object of strings: {fault}".splitlines()[0])
    except OSError as fault:
        return _refuse(f"{fault.filename}: {fault.strerror}")
    except KeyboardInterrupt:
        return _refuse("interrupted; run it again, complete files are kept")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve.weights", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, default_family: str) -> argparse.ArgumentParser:
        subparser = commands.add_parser(name, help=text, description=text)
        subparser.set_defaults(command=run)
        subparser.add_argument("dir", type=Path, metavar="DIR", help="the family folder")
        if default_family:
            subparser.add_argument("--family", choices=get_args(FamilyName), default=default_family)
            subparser.add_argument(
                "--catalogue", type=Path, metavar="FILE", help="more variants, of a YAML file"
            )
        return subparser

    download = command("download", _download, "download a family from the hub", "sd-v1")
    download.add_argument("--variants", default="", help=_VARIANTS_HELP)
    download.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="OWNER/NAME=OWNER/NAME[@REVISION]",
        help="replace a repository by another; also as a JSON object in DSD_MIRRORS",
    )
    download.add_argument(
        "--safety-checker", action="store_true", help="also the safety checker of the pictures"
    )
    download.add_argument(
        "--update", action="store_true", help="ignore pinned commits, and take the hub's latest"
    )
    random = command(
        "random", _random, "write a family's architectures with random values, for timing", "sd-v1"
    )
    random.add_argument("--variants", default="", help=_VARIANTS_HELP)
    random.add_argument("--seed", type=int, default=0, help="of the values")
    command(
        "adopt",
        _adopt,
        "pin files as they are: a folder's that has no manifest, what a catalogue adds to one, and "
        "again what was adopted or converted and has changed; drop the pins of such folders that "
        "are gone",
        "sd-v1",
    )
    command("verify", _verify, "compare every file with the manifest", "")
    convert = commands.add_parser("convert", help=_CONVERT, description=_CONVERT)
    convert.set_defaults(command=_convert)
    convert.add_argument("file", type=Path, metavar="FILE", help="the checkpoint, safetensors")
    convert.add_argument("dir", type=Path, metavar="DIR", help="the family folder")
    convert.add_argument("--name", required=True, help="of the new variant, such as my-style")
    convert.add_argument("--family", choices=get_args(FamilyName), default="sd-v1")
    convert.add_argument(
        "--base", default="original", help="a built-in variant of the same architecture"
    )
    convert.add_argument("--licence", help="of the checkpoint; default: as recorded")
    return parser


def _download(args: argparse.Namespace) -> int:
    from .hub import download_family  # Takes half a second, and only this command needs it.

    chosen = _family(args)
    mirrors = dict(HubSettings().mirrors)
    for argument in args.mirror:
        replaced, _, mirror = argument.partition("=")
        if not mirror:
            raise WeightsError(f"mirror: {argument!r} was given; it must be OWNER/NAME=OWNER/NAME")
        mirrors[replaced] = mirror
    published = chosen.components(chosen.variants).values()
    known = {source.repository for component in published for source in component.sources}
    if unknown := sorted(set(mirrors) - known):
        raise WeightsError(
            f"mirror: {unknown[0]!r} was given; {chosen.name} uses {', '.join(sorted(known))}"
        )
    manifest = download_family(
        args.dir,
        chosen,
        _variants(args.variants, chosen),
        mirrors=mirrors,
        safety_checker=args.safety_checker,
        update=args.update,
        report=_report,
    )
    _report(f"Ready in {args.dir}: {_licences(manifest)}")
    return 0


def _random(args: argparse.Namespace) -> int:
    from .random_values import write_random_components  # Imports torch: seconds.

    chosen = _family(args)
    components = chosen.components(_variants(args.variants, chosen))
    architecture = architecture_dir(args.family)
    shipped = read_manifest(architecture).components
    random = Origin(kind="random", licence=_RANDOM_LICENCE, seed=args.seed)
    origins = {
        name: random if component.has_weights else shipped[component.architecture].origin
        for name, component in chosen.components(chosen.variants).items()
    }
    kinds = {name: origin.kind for name, origin in origins.items()}
    before = manifest_before_writing(args.dir, args.family, kinds)
    args.dir.mkdir(parents=True, exist_ok=True)
    write_manifest(args.dir, before)  # So that an interrupted run can be repeated.
    write_random_components(
        args.dir, architecture, components, args.seed, lambda name: _report(f"{name} ...")
    )
    pinned = dict(before.components)
    pinned |= {name: pin(args.dir / name, origins[name]) for name in components}
    write_manifest(args.dir, Manifest(family=args.family, components=pinned))
    _report(f"Ready in {args.dir}: random values, for timing; pictures will be noise")
    return 0


def _adopt(args: argparse.Namespace) -> int:
    if refused := next(refused_entries(args.dir), None):
        raise WeightsError(refused)
    chosen = _family(args)
    components = chosen.components(chosen.variants, safety_checker=True)
    pinned: dict[str, PinnedComponent] = {}
    allowed = components
    if (args.dir / MANIFEST_NAME).exists():
        pinned = dict(manifest_before_writing(args.dir, args.family, {}).components)
        # What is published is `download`'s to bring, or to complete.
        allowed = {name: part for name, part in components.items() if part.source is None}
    local = {name for name, part in pinned.items() if part.origin.kind == "local"}
    gone = [name for name in sorted(local) if not (args.dir / name).is_dir()]
    for name in gone:
        del pinned[name]
    new: list[str] = []
    again: list[str] = []
    for name, part in components.items():
        before = pinned.get(name)
        may_pin = name in (allowed if before is None else local)
        if not may_pin or not (args.dir / name).is_dir():
            continue
        check_component(args.dir, part)
        origin = Origin(kind="local", licence=part.licence or _LOCAL_LICENCE)
        if before is not None and part.licence in (None, UNKNOWN_LICENCE):
            origin = before.origin
        pinned[name] = pin(args.dir / name, origin)
        if pinned[name] != before:
            (new if before is None else again).append(name)
    if not (new or again or gone):
        raise WeightsError(
            f"{args.dir}: has no component of {args.family} that isn't pinned as it is; "
            f"sub-folders may be {', '.join(allowed) or 'those that a file for --catalogue names'}"
        )
    write_manifest(args.dir, Manifest(family=args.family, components=pinned))
    for name in gone:
        _report(f"{name}: dropped from {MANIFEST_NAME}, as its folder is gone")
    for name in again:
        _report(f"{name}: pinned again")
    if new:
        _report(f"Pinned {', '.join(new)} in {args.dir}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    manifest = read_manifest(args.dir)
    files = [
        file for component in manifest.components.values() for file in component.files.values()
    ]
    total = sum(file.bytes for file in files)
    problems = list(refused_entries(args.dir))
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", leave=False) as bar:
        needed = set(manifest.components)
        problems += differences(args.dir, manifest, needed, hashes=True, done=bar.update)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return _refuse(f"{args.dir}: {len(problems)} file(s) differ from the manifest")
    _report(f"{args.dir}: {total / 1e6:.1f} MB as the manifest says; {_licences(manifest)}")
    return 0


def _family(args: argparse.Namespace) -> Family:
    try:
        entries = read_catalogue(args.catalogue) if args.catalogue else ()
        return with_entries(family(args.family), entries)
    except ValueError as fault:
        raise WeightsError(f"catalogue: {fault}") from None


def _convert(args: argparse.Namespace) -> int:
    from transformers.utils import logging

    from .converting import convert_file  # Imports torch: seconds.

    logging.disable_progress_bar()  # It would stand between the report's lines.
    entry = convert_file(
        args.file,
        args.dir,
        family(args.family),
        name=args.name,
        base=args.base,
        licence=args.licence,
        # So that stdout can go to a file.
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(entry, end="", flush=True)
    return 0


def _variants(names: str, chosen: Family) -> list[str]:
    if names == ALL:
        return list(chosen.variants)
    variants = [name for name in names.split(",") if name] or list(chosen.default_variants)
    if unknown := [name for name in variants if name not in chosen.variants]:
        raise WeightsError(
            f"variants: {unknown[0]!r} was given; allowed: {', '.join(chosen.variants)}"
        )
    return variants


def _licences(manifest: Manifest) -> str:
    licences = {component.origin.licence for component in manifest.components.values()}
    return f"licences {', '.join(sorted(licences))}"


def _report(text: str) -> None:
    print(text, flush=True)


def _refuse(reason: str) -> int:
    print(f"distilled-sd-serve: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
