"""What clients are shown of an error: nothing of the file system, and not much."""

import pytest

from serve.replica_info import public_reason


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        pytest.param(
            "RuntimeError: no room for 2/3 of it", "RuntimeError: no room for 2/3 of it", id="plain"
        ),
        pytest.param("ValueError: first\nsecond", "ValueError: first", id="lines"),
        pytest.param(
            "CalledProcessError: Command '['/usr/bin/gcc', '/tmp/t_1/main.c', '-o']' failed",
            "CalledProcessError: Command '['[path]', '[path]', '-o']' failed",
            id="paths",
        ),
        pytest.param("OSError: no file ~/.cache/x:1", "OSError: no file ~[path]:1", id="home"),
        pytest.param("E: " + "x" * 5000, "E: " + "x" * 194 + "...", id="long"),
        pytest.param("", "", id="empty"),
    ],
)
def test_a_reason_is_one_line_without_paths_and_short(reason: str, shown: str) -> None:
    assert public_reason(reason) == shown
