"""`python -m serve.weights`: download, make, pin and verify family folders."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from pydantic_settings import SettingsError
from tqdm import tqdm

from ..errors import WeightsError
from ..settings import HubSettings
from ..variants import Family, FamilyName, family
from .check import differences, refused_entries
from .layout import architecture_dir
from .manifest import MANIFEST_NAME, Manifest, Origin, held, pin, read_manifest, write_manifest

_RANDOM_LICENCE = "Apache-2.0"
_LOCAL_LICENCE = "not known: brought by hand"


def main() -> int:
    """Run one command; 0 when all is well, 1 with one line per problem."""
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
        return _refuse("stopped; run it again, what is complete is kept")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m serve.weights", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str, default_family: str) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text)
        one.set_defaults(command=run)
        one.add_argument("dir", type=Path, metavar="DIR", help="the family folder")
        if default_family:
            one.add_argument("--family", choices=get_args(FamilyName), default=default_family)
        return one

    download = command("download", _download, "download a family from the hub", "sd-v1")
    download.add_argument("--variants", default="", help="a,b: only what these need")
    download.add_argument(
        "--mirror",
        action="append",
        default=[],
        metavar="OWNER/NAME=OWNER/NAME[@REVISION]",
        help="take another repository in a repository's place; also as JSON in DSD_MIRRORS",
    )
    download.add_argument(
        "--safety-checker", action="store_true", help="also what checks pictures; served where on"
    )
    download.add_argument("--update", action="store_true", help="take what the hub has now")
    random = command(
        "random", _random, "make a family's architectures with random values, for timing", "sd-v1"
    )
    random.add_argument("--variants", default="", help="a,b: only what these need")
    random.add_argument("--seed", type=int, default=0, help="of the values")
    command("adopt", _adopt, "pin a folder's files as they are, without a manifest so far", "sd-v1")
    command("verify", _verify, "compare every file with the manifest", "")
    return parser


def _download(args: argparse.Namespace) -> int:
    from .hub import download_family  # Half a second, which `verify` needn't wait.

    chosen = family(args.family)
    mirrors = dict(HubSettings().mirrors)
    for one in args.mirror:
        replaced, equals, mirror = one.partition("=")
        if not equals or not mirror:
            raise WeightsError(f"mirror: {one!r} was given; it must be OWNER/NAME=OWNER/NAME")
        mirrors[replaced] = mirror
    published = chosen.components(chosen.variants).values()
    known = {component.source.repository for component in published if component.source}
    for replaced in set(mirrors) - known:
        raise WeightsError(
            f"mirror: {replaced!r} was given; {chosen.name} uses {', '.join(sorted(known))}"
        )
    manifest = download_family(
        args.dir,
        chosen,
        _variants(args.variants, chosen),
        mirrors=mirrors,
        safety_checker=args.safety_checker,
        update=args.update,
        tell=_tell,
    )
    _tell(f"Ready in {args.dir}: {_licences(manifest)}")
    return 0


def _random(args: argparse.Namespace) -> int:
    from .random_values import write_random_components  # Imports torch: seconds.

    chosen = family(args.family)
    components = chosen.components(_variants(args.variants, chosen))
    earlier = held(args.dir, args.family, {"random", "shipped"})
    for name, component in chosen.components(chosen.variants).items():
        before = earlier.components.get(name)
        if component.has_weights and before is not None and before.origin.kind != "random":
            raise WeightsError(
                f"{args.dir / name}: its origin is {before.origin.kind!r}; choose another folder"
            )
    args.dir.mkdir(parents=True, exist_ok=True)
    write_manifest(args.dir, earlier)  # A run that is cut short can then be run again.
    pinned = dict(earlier.components)
    architecture = architecture_dir(args.family)
    write_random_components(
        args.dir, architecture, components, args.seed, lambda name: _tell(f"{name} ...")
    )
    random = Origin(kind="random", licence=_RANDOM_LICENCE, seed=args.seed)
    shipped = read_manifest(architecture).components
    for name, component in components.items():
        origin = random if component.has_weights else shipped[name].origin
        pinned[name] = pin(args.dir / name, origin)
    write_manifest(args.dir, Manifest(family=args.family, components=pinned))
    _tell(f"Ready in {args.dir}: random values, for timing; the pictures mean nothing")
    return 0


def _adopt(args: argparse.Namespace) -> int:
    if (args.dir / MANIFEST_NAME).exists():
        raise WeightsError(f"{args.dir / MANIFEST_NAME}: is there already; `verify` holds to it")
    for problem in refused_entries(args.dir):
        raise WeightsError(problem)
    chosen = family(args.family)
    names = list(chosen.components(chosen.variants, safety_checker=True))
    origin = Origin(kind="local", licence=_LOCAL_LICENCE)
    pinned = {name: pin(args.dir / name, origin) for name in names if (args.dir / name).is_dir()}
    if not pinned:
        raise WeightsError(
            f"{args.dir}: holds no component of {args.family}; it should have sub-folders "
            f"{', '.join(names)}"
        )
    write_manifest(args.dir, Manifest(family=args.family, components=pinned))
    _tell(f"Pinned {', '.join(pinned)} in {args.dir}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    manifest = read_manifest(args.dir)
    total = sum(f.bytes for one in manifest.components.values() for f in one.files.values())
    problems = list(refused_entries(args.dir))
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", leave=False) as bar:
        needed = set(manifest.components)
        problems += differences(args.dir, manifest, needed, hashes=True, done=bar.update)
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        return _refuse(f"{args.dir}: {len(problems)} file(s) differ from the manifest")
    _tell(f"{args.dir}: {total / 1e6:.1f} MB as the manifest says; {_licences(manifest)}")
    return 0


def _variants(names: str, chosen: Family) -> list[str]:
    variants = [name for name in names.split(",") if name] or list(chosen.variants)
    for name in variants:
        if name not in chosen.variants:
            raise WeightsError(
                f"variants: {name!r} was given; allowed: {', '.join(chosen.variants)}"
            )
    return variants


def _licences(manifest: Manifest) -> str:
    licences = {one.origin.licence for one in manifest.components.values()}
    return f"licences {', '.join(sorted(licences))}"


def _tell(text: str) -> None:
    print(text, flush=True)


def _refuse(reason: str) -> int:
    print(f"distilled-sd-serve: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
