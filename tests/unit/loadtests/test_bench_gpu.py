"""The GPU script's findings, and its steps as processes, without any model."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.bench.gpu import __main__ as command
from loadtests.bench.gpu.findings import ENDED, SEED_WORKLOAD, Finding, Journal, Questions, render
from tests.machine import HANG_S


def test_a_question_without_an_answer_is_a_finding_and_the_next_is_asked(tmp_path: Path) -> None:
    questions = Questions(Journal(tmp_path), "smoke")

    def broken() -> int:
        raise RuntimeError("no kernel")

    assert questions.ask("first", broken) is None
    assert questions.ask("second", lambda: 2) == 2
    assert questions.failed == 1
    assert Journal(tmp_path).read() == [
        Finding("smoke", "first", "RuntimeError: no kernel", failed=True),
        Finding("smoke", "second", 2),
    ]


def test_a_half_written_line_is_passed_over(tmp_path: Path) -> None:
    Journal(tmp_path).write(Finding("env", ENDED, "exit status 0"))
    with (tmp_path / "findings.jsonl").open("a") as lines:
        lines.write('{"step": "smoke", "wh')
    assert Journal(tmp_path).finished() == {"env"}


def test_the_table_has_the_last_answer_to_each_question_and_readmes_row() -> None:
    found = [
        Finding("env", "device", "NVIDIA H200"),
        Finding("full", "slots", "RuntimeError: first try | second", failed=True),
        Finding("full", "slots", 16),
        Finding("full", "one", {"median": 0.25, "low": 0.2, "high": 0.3, "count": 3}),
        Finding("packed", SEED_WORKLOAD, {"original": 1000.0, "distilled": 700.25}),
    ]
    text = render(found, "the command")
    assert "| 12 images, 25 steps, on NVIDIA H200, ms | 1000.0 | 700.2 |" in text
    assert "| full | slots | 16 |" in text
    assert "first try" not in text
    assert "| full | one | 0.25 (0.2 to 0.3) |" in text
    assert "**failed**: RuntimeError: first try / second" in render(found[:2], "the command")
    assert "README" not in render(found[:4], "the command")


class _Steps:
    """Stands in for the steps' processes: each runs a line of Python."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scripts: dict[str, str]) -> None:
        self.begun: list[str] = []
        self.processes: list[subprocess.Popen[bytes]] = []

        def start(args: Any, argv: list[str], name: str) -> "subprocess.Popen[bytes]":
            self.begun.append(name)
            process = subprocess.Popen(
                [sys.executable, "-c", scripts.get(name, "")], start_new_session=True
            )
            self.processes.append(process)
            return process

        monkeypatch.setattr(command, "_start", start)
        monkeypatch.setattr(signal, "signal", lambda *_: None)  # This process's stay as they are.


def _main(monkeypatch: pytest.MonkeyPatch, out: Path, *arguments: str) -> int:
    argv = ["gpu", "--out", str(out), "--family", "miniature", *arguments]
    monkeypatch.setattr(sys, "argv", argv)
    return command.main()


def test_what_fails_or_hangs_leaves_the_next_its_turn_and_only_that_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(command.LIMITS_S, "smoke", 1.0)
    scripts = {"env": "exit(3)", "smoke": f"import time; time.sleep({2 * HANG_S})"}
    steps = _Steps(monkeypatch, scripts)
    asked = "--steps", "env,smoke,eager", "--budget", str(HANG_S)
    assert _main(monkeypatch, tmp_path, *asked) == 1
    assert steps.begun == ["env", "smoke", "eager"]
    assert all(process.poll() is not None for process in steps.processes)
    ended = {it.step: it for it in Journal(tmp_path).read() if it.what == ENDED}
    assert "exit status 3" in ended["env"].value
    assert "killed after 1 s" in ended["smoke"].value
    assert not ended["eager"].failed
    assert "| eager | ended |" in (tmp_path / "findings.md").read_text()
    again = _Steps(monkeypatch, {})
    assert _main(monkeypatch, tmp_path, *asked) == 0
    assert again.begun == ["env", "smoke"]


def test_a_step_for_which_no_time_is_left_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = _Steps(monkeypatch, {})
    assert _main(monkeypatch, tmp_path, "--steps", "env", "--budget", "1") == 1
    assert steps.begun == []
    assert Journal(tmp_path).read() == [Finding("env", ENDED, "not begun: 1 s left", failed=True)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--steps", "env,fast"], "--steps: 'fast' was given; allowed: env, smoke"),
        (["--budget", "0"], "--budget: 0 was given; allowed: more than 0"),
    ],
    ids=["step", "budget"],
)
def test_bad_arguments_are_refused(
    arguments: list[str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with pytest.raises(SystemExit):
        _main(monkeypatch, tmp_path, *arguments)
    assert reason in capsys.readouterr().err
