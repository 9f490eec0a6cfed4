import hashlib
import hmac
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serve import keys as keys_module
from serve.errors import KeysError
from serve.keys import Key, KeyFile, main, new_key, read_keys

VARIANTS = ("original", "distilled")


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys"


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_comments_blank_lines_and_variants_are_read(path: Path) -> None:
    path.write_text(
        f"# whose keys\n\n  alice {sha256('a')}\r\n\tbatch  {sha256('b').upper()} distilled\n#x\n"
    )
    assert read_keys(path, VARIANTS) == (
        Key("alice", bytes.fromhex(sha256("a"))),
        Key("batch", bytes.fromhex(sha256("b")), frozenset({"distilled"})),
    )


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        pytest.param("bob", "needs a name", id="name-only"),
        pytest.param(f"bob {sha256('b')} original distilled", "needs a name", id="four-words"),
        pytest.param(f"bob {sha256('b')[:-1]}", "sha256", id="short"),
        pytest.param(f"{sha256('b')} bob", "sha256", id="swapped"),
        pytest.param("bob dsd-the-key-itself", "sha256", id="the-key-itself"),
        pytest.param(f"b/b {sha256('b')}", "the name", id="name"),
        pytest.param(f"{'b' * 65} {sha256('b')}", "the name", id="long-name"),
        pytest.param(f"bob {sha256('b')} orginal", "original, distilled", id="variant"),
        pytest.param(f"bob {sha256('b')} {sha256('b')}", "original, distilled", id="twice"),
        pytest.param(f"alice {sha256('b')}", "a name that an earlier", id="same-name"),
        pytest.param(f"bob {sha256('a')}", "a key that an earlier", id="same-key"),
        pytest.param(f"bob\udcff {sha256('b')}", "the name", id="not-utf-8"),
    ],
)
def test_a_malformed_line_is_refused_by_its_number_and_nothing_of_it_is_told(
    path: Path, line: str, complaint: str
) -> None:
    content = f"# keys\nalice {sha256('a')}\n{line}\n"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(KeysError, match=r"line 3: ") as refused:
        read_keys(path, VARIANTS)
    message = str(refused.value)
    assert complaint in message
    assert not re.search(r"[0-9a-f]{12}|bob|the-key-itself|orginal", message)


def test_a_file_that_is_no_list_of_keys_is_refused(path: Path) -> None:
    path.write_bytes(b"#" * (1024**2 + 1))
    with pytest.raises(KeysError, match="over 1048576 bytes"):
        KeyFile(path, VARIANTS)


def test_a_key_is_found_by_its_hash_and_no_other(path: Path) -> None:
    path.write_text(f"alice {sha256('a')}\nbob {sha256('b')} distilled\n")
    keys = KeyFile(path, VARIANTS)
    alice, bob = keys.find(b"a"), keys.find(b"b")
    assert alice is not None
    assert bob is not None
    assert (alice.name, alice.allows("original")) == ("alice", True)
    assert (bob.name, bob.allows("original"), bob.allows("distilled")) == ("bob", False, True)
    for wrong in (b"", b"A", sha256("a").encode(), "ä".encode(), b"\xff"):
        assert keys.find(wrong) is None


@pytest.mark.parametrize("presented", [b"a", b"c", b"unknown"])
def test_every_key_is_compared_whichever_was_presented(
    path: Path, monkeypatch: pytest.MonkeyPatch, presented: bytes
) -> None:
    path.write_text("".join(f"{name} {sha256(name)}\n" for name in "abc"))
    compared: list[bytes] = []

    def counting(first: bytes, second: bytes) -> bool:
        compared.append(first)
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(keys_module, "hmac", type("", (), {"compare_digest": counting}))
    KeyFile(path, VARIANTS).find(presented)
    assert compared == [bytes.fromhex(sha256(name)) for name in "abc"]


class Untouchable(bytes):
    """Bytes that nobody may look at, but who takes them whole, as hashes and `hmac` do."""

    def _looked_at(self, *_: object) -> bool:
        raise AssertionError("compared, searched or cut")

    __eq__ = __ne__ = __lt__ = __gt__ = __contains__ = __getitem__ = _looked_at  # type: ignore[assignment]
    startswith = endswith = find = index = _looked_at  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


def test_nothing_but_the_constant_time_comparison_looks_at_keys_and_hashes(path: Path) -> None:
    path.write_text("".join(f"{name} {sha256(name)}\n" for name in "abc"))
    keys = KeyFile(path, VARIANTS)
    keys._keys = tuple(replace(one, digest=Untouchable(one.digest)) for one in keys._keys)
    found = keys.find(Untouchable(b"b"))
    assert found is not None
    assert found.name == "b"
    assert keys.find(Untouchable(b"d")) is None
    with pytest.raises(AssertionError, match="compared"):
        assert keys._keys[0].digest == b"x"


def in_place(path: Path, content: str) -> None:
    path.write_text(content)


def by_rename(path: Path, content: str) -> None:
    other = path.with_name("other")
    other.write_text(content)
    other.replace(path)


def as_mounted_secrets_are(path: Path, content: str) -> None:
    """`keys` leads to `..data/keys`, and `..data` to a folder that is another each time."""
    folder = path.parent / f"..{len(list(path.parent.iterdir()))}"
    folder.mkdir()
    (folder / path.name).write_text(content)
    link = path.parent / "..new"
    link.symlink_to(folder.name)
    link.replace(path.parent / "..data")
    if not path.is_symlink():
        path.symlink_to(Path("..data", path.name))


@pytest.mark.parametrize("write", [in_place, by_rename, as_mounted_secrets_are])
def test_a_changed_file_is_read_again_after_a_second(
    path: Path, write: Callable[[Path, str], None]
) -> None:
    clock = Clock()
    write(path, f"alice {sha256('a')}\n")
    keys = KeyFile(path, VARIANTS, clock)
    # As many bytes, and as old: only its inode, or when it was changed, tells.
    before = path.stat()
    write(path, f"alice {sha256('b')}\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    clock.now_s = 0.5
    assert keys.find(b"a")
    assert not keys.find(b"b")
    clock.now_s = 1.0
    assert not keys.find(b"a")
    assert keys.find(b"b")
    # The last key can be revoked, too.
    write(path, "")
    clock.now_s = 2.0
    assert not keys.find(b"b")


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda path: path.write_text("alice\n"), id="malformed"),
        pytest.param(lambda path: path.unlink(), id="gone"),
    ],
)
def test_a_broken_new_file_keeps_the_old_keys_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture, break_it: Callable[[Path], object]
) -> None:
    clock = Clock()
    path.write_text(f"alice {sha256('a')}\n")
    keys = KeyFile(path, VARIANTS, clock)
    break_it(path)
    with caplog.at_level("INFO", "ray.serve"):
        for clock.now_s in (1.0, 2.0, 3.0):
            assert keys.find(b"a")
        assert [one.levelname for one in caplog.records] == ["ERROR"]
        assert "the old keys stay in force" in caplog.text
        path.write_text(f"bob {sha256('b')}\n")
        clock.now_s = 4.0
        assert not keys.find(b"a")
        assert keys.find(b"b")
    assert caplog.records[-1].message == "API keys read again: 1"
    assert sha256("b") not in caplog.text


def test_the_command_makes_a_key_and_the_line_that_lets_it_in(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["keys", "new", "alice", "--variants", "distilled"])
    assert main() == 0
    output = capsys.readouterr().out
    (key,) = re.findall(r"^dsd-[\w-]{43}$", output, re.MULTILINE)
    path.write_text(output.splitlines()[-1] + "\n")
    (found,) = read_keys(path, VARIANTS)
    assert found == Key("alice", hashlib.sha256(key.encode()).digest(), frozenset({"distilled"}))
    assert new_key("alice")[0] != key


@pytest.mark.parametrize("name", ["", "al ice", "../alice", "a" * 65])
def test_the_command_refuses_a_name_that_the_file_could_not_hold(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["keys", "new", name])
    assert main() == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("distilled-sd-serve: ")


def test_a_key_never_shows_its_hash() -> None:
    key = Key("alice", bytes.fromhex(sha256("a")))
    assert repr(key) == "Key(name='alice', variants=None)"
