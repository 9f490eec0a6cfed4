"""`make serve` as a person meets it: its words, its `curl` line, Ctrl-C, and what it refuses."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.integration.conftest import ROOT, free_port

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("curl") is None, reason="needs make and curl"
)


@dataclass
class Running:
    process: subprocess.Popen[str]
    words: str


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """`make serve` in a session of its own, like a terminal's, up to its last line."""
    process = subprocess.Popen(
        ["make", "--silent", "serve", f"PORT={free_port()}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    words = ""
    for line in process.stdout:
        words += line
        if "Ctrl-C" in line:
            break
    yield Running(process, words)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def test_it_tells_what_it_does_and_when_every_variant_is_warm(running: Running) -> None:
    for name in ("original", "distilled", "distilled-tiny-vae"):
        assert f"  {name} is warm\n" in running.words
    assert running.words.startswith("Starting Ray ...\n")
    assert "Ready on http://127.0.0.1:" in running.words
    assert len(running.words.splitlines()) < 20


def test_its_curl_line_draws_the_picture(running: Running, tmp_path: Path) -> None:
    command = re.search(r"^  curl .*?(?=\n\n)", running.words, re.DOTALL | re.MULTILINE)
    assert command is not None
    subprocess.run(command[0], shell=True, cwd=tmp_path, check=True, timeout=60)
    picture = Image.open(tmp_path / "vase.png")
    assert (picture.format, picture.size) == ("PNG", (96, 96))


def test_a_taken_port_is_one_clear_line(running: Running) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = subprocess.run(
            [sys.executable, "-m", "serve", "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert f"port: can't listen on 127.0.0.1:{port}" in refused.stderr


def test_ctrl_c_ends_it_cleanly_and_leaves_no_process(running: Running) -> None:
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert len(family) > 5
    os.killpg(running.process.pid, signal.SIGINT)
    assert running.process.stdout is not None
    last_words = running.process.stdout.read()
    running.process.wait(timeout=60)
    assert "Stopped." in last_words
    assert "Traceback" not in last_words
    gone_by = time.monotonic() + 20
    while any(one.is_running() and one.status() != "zombie" for one in family):
        assert time.monotonic() < gone_by, [one.cmdline() for one in family if one.is_running()]
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--port", "99999"], "port: '99999' was given", id="port"),
        pytest.param(["--family", "sd-v1"], "weights_dir: not given", id="no-weights"),
        pytest.param(["--family", "sd-v9"], "family: 'sd-v9' was given", id="family"),
        pytest.param(["--weights-dir", "/nowhere"], "'/nowhere' is not a folder", id="folder"),
    ],
)
def test_what_it_cannot_serve_is_one_clear_line(arguments: list[str], complaint: str) -> None:
    if "--port" not in arguments:
        arguments = [*arguments, "--port", str(free_port())]
    refused = subprocess.run(
        [sys.executable, "-m", "serve", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert complaint in refused.stderr


def test_a_missing_python_is_one_clear_line(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    refused = subprocess.run(
        ["make", "--silent", "serve", "PYTHON="], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "needs Python 3.11 or newer" in refused.stderr
