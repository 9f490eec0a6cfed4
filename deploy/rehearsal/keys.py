"""API keys: the Secret that the overlay mounts, filled with one key for the rehearsal's clients."""

import subprocess
import sys
from dataclasses import replace
from pathlib import PurePosixPath

from .overlay import Overlay, OverlayError
from .pods import ROOT, mounted_at
from .serve_config import Config, api_keys_file, with_argument
from .translation import groups, secret_mounts


def with_key(overlay: Overlay, config: Config) -> tuple[Overlay, Config, str | None]:
    """The overlay with a line in the Secret that holds the keys' file, and the key.

    The configuration names the file where pods here have it. The bound on a key's requests goes:
    one key stands for many clients. Unchanged, and no key, where none is required.

    Raises:
        OverlayError: the head, which builds the application, has no Secret mounted there.
    """
    path = api_keys_file(config)
    if path is None:
        return overlay, config, None
    file = PurePosixPath(path)
    secret = secret_mounts(groups(overlay.ray_service)[0]).get(str(file.parent))
    if secret is None:
        raise OverlayError(f"{overlay.name}: api_keys_file {path!r} lies in no mounted Secret")
    key, line = _new_key("rehearsal")
    return (
        replace(overlay, files={**overlay.files, secret: {file.name: f"{line}\n"}}),
        with_argument(config, api_keys_file=mounted_at(path), max_requests_per_key=None),
        key,
    )


def _new_key(name: str) -> tuple[str, str]:
    """A key and its line, made with the command that deploy/README.md gives."""
    told = subprocess.run(
        [sys.executable, "-m", "serve.keys", "new", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    key = next(one for one in told if one.startswith("dsd-"))
    line = next(one for one in told if one.startswith(f"{name} "))
    return key, line
