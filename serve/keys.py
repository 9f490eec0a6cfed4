"""API keys, beside the way of a request: a mounted file of hashes, read again when it changes.

    # a name, the key's sha256 in hex, and the variants that it may use, where not all
    alice 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    batch 60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 distilled,original

`python -m serve.keys new NAME` makes a key. `http/gate.py` asks for keys; this knows neither HTTP
nor Ray. Of a file only names ever appear in errors and logs.
"""

import argparse
import hashlib
import hmac
import logging
import re
import secrets
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .errors import KeysError

# A Secret holds at most 1 MiB.
_MOST_BYTES = 1024**2
# Requests come by the hundred a second; a changed file may wait that long.
_CHECK_EVERY_S = 1.0
# What is safe in a log line and as a word of the file.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_log = logging.getLogger("ray.serve")

_Stamp = tuple[int, ...]


@dataclass(frozen=True)
class Key:
    """One line of the file; `variants` is None where the key may use all."""

    name: str
    digest: bytes = field(repr=False)
    variants: frozenset[str] | None = None

    def allows(self, variant: str) -> bool:
        """Whether the key may use a variant."""
        return self.variants is None or variant in self.variants


class KeyFile:
    """The keys in a file, which may be replaced while it is used.

    A new file that is broken or gone leaves the old keys in force, so that a slip in an editor
    locks nobody out, and is logged once.

    Args:
        path: of the file; a link, as in mounted Secrets, is followed at every look.
        variants: what a line may name.
        now: a clock, in seconds.

    Raises:
        KeysError: the first file is missing or broken.
    """

    def __init__(
        self, path: Path, variants: Collection[str], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._variants, self._now = path, variants, now
        # Before the content: what changes in between is then read again.
        self._stamp = _stamp(path)
        self._keys = read_keys(path, variants)
        self._looked_at = now()

    def find(self, presented: bytes) -> Key | None:
        """The key that was presented; None where the file has no such key.

        Compares with every key, in constant time, so that how long it takes tells nothing.
        """
        self._look_again()
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _look_again(self) -> None:
        now = self._now()
        if now - self._looked_at < _CHECK_EVERY_S:
            return
        self._looked_at = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(self._path, self._variants)
        except KeysError as fault:
            _log.error("%s; the old keys stay in force", fault)
        else:
            _log.info("API keys read again: %d", len(self._keys))


def read_keys(path: Path, variants: Collection[str]) -> tuple[Key, ...]:
    """A file's keys.

    Raises:
        KeysError: it can't be read, or a line is wrong; names the line, but nothing of it.
    """
    where = f"api_keys_file: {str(path)!r}"
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as fault:
        raise KeysError(f"{where} can't be read: {fault.strerror}") from None
    if len(content) > _MOST_BYTES:
        raise KeysError(f"{where} is over {_MOST_BYTES} bytes")
    found: list[Key] = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            key = _parsed(words, variants)
            if any(key.name == other.name for other in found):
                raise ValueError("a name that an earlier line has")
            if any(key.digest == other.digest for other in found):
                raise ValueError("a key that an earlier line has")
        except ValueError as fault:
            raise KeysError(f"{where}, line {number}: {fault}") from None
        found.append(key)
    return tuple(found)


def _parsed(words: Sequence[str], variants: Collection[str]) -> Key:
    if len(words) not in (2, 3):
        raise ValueError("needs a name, a sha256 in hex, and nothing more but variants: a,b")
    name, digest, *rest = words
    if not _NAME.fullmatch(name):
        raise ValueError("the name must be 1 to 64 letters, digits, dots, dashes or underscores")
    if not _SHA256.fullmatch(digest):
        raise ValueError("the second word must be a sha256 in hex, 64 digits")
    if not rest:
        return Key(name, bytes.fromhex(digest))
    allowed = frozenset(rest[0].split(","))
    if not allowed <= set(variants):
        raise ValueError(f"a variant that isn't known; allowed: {', '.join(variants)}")
    return Key(name, bytes.fromhex(digest), allowed)


def _stamp(path: Path) -> _Stamp | None:
    """What differs once a file, or the file that a link leads to, was changed or replaced."""
    try:
        now = path.stat()
    except OSError:
        return None
    return now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns


def new_key(name: str, variants: str = "") -> tuple[str, str]:
    """A random key, and its line for the file.

    Raises:
        ValueError: the name, or the list of variants, can't be used.
    """
    # 256 random bits: a plain sha256 of them is out of reach, a slow hash would add nothing.
    key = f"dsd-{secrets.token_urlsafe(32)}"
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()} {variants}".rstrip()
    _parsed(line.split(), [name for name in variants.split(",") if name])
    return key, line


def main() -> int:
    """Make a key and show it, this once."""
    parser = argparse.ArgumentParser(prog="python -m serve.keys", description="API keys")
    new = parser.add_subparsers(required=True).add_parser("new", help="make a key")
    new.add_argument("name", help="the key's owner; goes into the log")
    new.add_argument("--variants", default="", help="a,b: which it may use; all when absent")
    args = parser.parse_args()
    try:
        key, line = new_key(args.name, args.variants)
    except ValueError as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 1
    print(f"The key, for its user; it is shown only now:\n{key}\n")
    print(f"The line for the keys file:\n{line}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
