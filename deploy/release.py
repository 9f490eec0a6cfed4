"""`make release-manifests`: each overlay as one YAML file whose images are pinned by digest.

For who doesn't run kustomize. DIGESTS names an overlay's images by what follows the version in the
tag, `cpu` or `cuda`, and others' by their name: "cpu=sha256:... cuda=sha256:... redis=sha256:...".
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_OVERLAYS = _ROOT / "deploy" / "overlays"
_NAME = "distilled-sd-serve"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE = re.compile(r"^ *(?:- )?image: (\S+):(\S+)$", re.MULTILINE)


class ReleaseError(Exception):
    """What was wrong with the command line, in one line."""


def main() -> int:
    """Write one file per overlay; 1 where an argument or an overlay isn't right."""
    parser = argparse.ArgumentParser(prog="python deploy/release.py", description=__doc__)
    parser.add_argument("--image", required=True, help="REGISTRY/NAME, without a tag")
    parser.add_argument("--digests", required=True, help="cpu=sha256:... cuda=sha256:...")
    parser.add_argument("--out", type=Path, default=_ROOT / "dist")
    args = parser.parse_args()
    try:
        if not re.fullmatch(r"[\w.-]+(:\d+)?(/[\w.-]+)+", args.image):
            raise ReleaseError(f"IMAGE: {args.image!r} was given; it must be REGISTRY/NAME")
        digests = _digests(args.digests)
        names = sorted(path.parent.name for path in _OVERLAYS.glob("*/kustomization.yaml"))
        texts = {name: _pinned(_OVERLAYS / name, args.image, digests) for name in names}
    except ReleaseError as fault:
        print(f"{_NAME}: {fault}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        path = args.out / f"{_NAME}-{name}.yaml"
        path.write_text(text)
        print(path)
    return 0


def _digests(text: str) -> dict[str, str]:
    digests = {}
    for word in text.split():
        name, _, digest = word.partition("=")
        if not name or not _DIGEST.fullmatch(digest):
            raise ReleaseError(
                f"DIGESTS: {word!r} was given; it must be NAME=sha256:<64 hex digits>"
            )
        digests[name] = digest
    return digests


def _pinned(overlay: Path, image: str, digests: dict[str, str]) -> str:
    """The overlay's manifests, with the digest of each image that it names by a tag."""
    changes = []
    for name, tag in sorted(set(_IMAGE.findall(_kustomize(overlay)))):
        known = tag.rpartition("-")[2] if name == _NAME else name
        if known not in digests:
            raise ReleaseError(f"DIGESTS: has no {known}, which overlays/{overlay.name} needs")
        change = {"name": name, "digest": digests[known]}
        changes.append({**change, "newName": image} if name == _NAME else change)
    with tempfile.TemporaryDirectory(prefix="release-") as folder:
        base = os.path.relpath(overlay, Path(folder).resolve())
        # JSON is YAML.
        (Path(folder) / "kustomization.yaml").write_text(
            json.dumps({"resources": [base], "images": changes})
        )
        return _kustomize(Path(folder))


def _kustomize(folder: Path) -> str:
    kubectl = Path(sys.executable).with_name("kubectl")
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True)
    if done.returncode:
        raise ReleaseError(done.stderr.strip())
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
