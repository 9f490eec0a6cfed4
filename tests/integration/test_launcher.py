"""`make serve` as a person meets it: its words, its `curl` line, Ctrl-C, and what it refuses."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.integration.conftest import ROOT, free_port
from tests.pictures import TOLERANCE, difference

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None or shutil.which("curl") is None, reason="needs make and curl"
)


@dataclass
class Running:
    process: subprocess.Popen[str]
    words: str

    @property
    def url(self) -> str:
        return re.findall(r"Ready on (\S+)", self.words)[0]

    @property
    def log_dir(self) -> Path:
        return Path(re.findall(r"logs (\S+)\. ", self.words)[0])


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """`make serve` in a session of its own, like a terminal's, up to its last line."""
    process = subprocess.Popen(
        [
            "make",
            "--silent",
            "serve",
            f"PORT={free_port()}",
            "ARGS=--log-encoding JSON --verify-hashes",
        ],
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


def test_the_readmes_requests_are_answered_and_its_picture_is_what_they_draw(
    running: Running, tmp_path: Path
) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    requests = [block for block in blocks if block.startswith("curl ")]
    assert len(requests) == 3
    answers = [
        subprocess.run(
            block.replace("http://127.0.0.1:8000", running.url).replace("curl ", "curl -sf ", 1),
            shell=True,
            cwd=tmp_path,
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for block in requests
    ]
    drawn, shown = (
        np.asarray(Image.open(path).convert("RGB"))
        for path in (tmp_path / "vase.png", ROOT / "serve/miniature/golden-vase.png")
    )
    assert difference(drawn, shown) <= TOLERANCE
    assert [image["seed"] for image in json.loads(answers[1])["data"]] == [7, 8]
    events = [line for line in answers[2].decode().splitlines() if line.startswith("event: ")]
    assert events == ["event: image_generation.partial_image"] * 2 + [
        "event: image_generation.completed"
    ]


def test_a_request_id_is_in_the_json_log_lines_of_router_and_replica(running: Running) -> None:
    reply = httpx.post(
        f"{running.url}/v1/images/generations",
        json={"prompt": "x", "model": "distilled", "num_inference_steps": 1},
        headers={"X-Request-ID": "the-request"},
        timeout=60,
    )
    assert reply.headers["x-request-id"] == "the-request"
    for pattern in ("replica_*_router_*.log", "replica_*_distilled_*.log"):
        deadline = time.monotonic() + 20
        while True:
            (log,) = running.log_dir.glob(pattern)
            records = [json.loads(line) for line in log.read_text().splitlines()]
            if any(one.get("request_id") == "the-request" for one in records):
                break
            assert time.monotonic() < deadline, records[-3:]
            time.sleep(0.1)


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


def test_ctrl_c_answers_what_is_under_way_and_leaves_no_process(running: Running) -> None:
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert len(family) > 5
    long = {"prompt": "x", "model": "distilled", "num_inference_steps": 50}
    with ThreadPoolExecutor() as pool:
        under_way = pool.submit(
            httpx.post, f"{running.url}/v1/images/generations", json=long, timeout=60
        )
        time.sleep(0.3)  # So that it is there before the signal, not for it to end.
        assert not under_way.done()
        os.killpg(running.process.pid, signal.SIGINT)
        assert under_way.result().status_code == 200
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
        pytest.param(["--num-gpus", "50"], "50 for each variant are 150", id="gpus"),
        pytest.param(["--variants", "huge"], "variants: 'huge' was given; allowed", id="variant"),
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
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    refused = subprocess.run(
        ["make", "--silent", "serve", "PYTHON="], cwd=tmp_path, capture_output=True, text=True
    )
    assert refused.returncode != 0
    assert "needs Python 3.11 or newer" in refused.stderr
