"""`make serve` as a person meets it: its words, its `curl` line, Ctrl-C, and what it refuses."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.machine import HANG_S, ROOT, free_port, wait_for
from tests.pictures import TOLERANCE, difference

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(
        shutil.which("make") is None or shutil.which("curl") is None, reason="needs make and curl"
    ),
]


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
            "ARGS=--log-encoding JSON --verify-hashes --graceful-shutdown-timeout-s 120",
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
    subprocess.run(command[0], shell=True, cwd=tmp_path, check=True, timeout=HANG_S)
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
            timeout=HANG_S,
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
    # Two previews, of which a busy replica may leave some out.
    assert set(events[:-1]) <= {"event: image_generation.partial_image"}
    assert events[-1] == "event: image_generation.completed"


def test_a_request_id_is_in_the_json_log_lines_of_router_and_replica(running: Running) -> None:
    reply = httpx.post(
        f"{running.url}/v1/images/generations",
        json={"prompt": "x", "model": "distilled", "num_inference_steps": 1},
        headers={"X-Request-ID": "the-request"},
        timeout=HANG_S,
    )
    assert reply.headers["x-request-id"] == "the-request"
    for pattern in ("replica_*_router_*.log", "replica_*_distilled_*.log"):
        (log,) = running.log_dir.glob(pattern)
        wait_for(partial(_has_request, log, "the-request"))


def _has_request(log: Path, request_id: str) -> bool:
    lines = log.read_text().splitlines(keepends=True)
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return any(record.get("request_id") == request_id for record in whole)


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
            timeout=HANG_S,
        )
    assert refused.returncode == 1
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1
    assert f"port: can't listen on 127.0.0.1:{port}" in refused.stderr


def test_ctrl_c_answers_what_is_under_way_and_leaves_no_process(running: Running) -> None:
    family = psutil.Process(running.process.pid).children(recursive=True)
    assert len(family) > 5
    long = {"prompt": "x", "model": "distilled", "num_inference_steps": 150}
    asked = {**long, "stream": True, "partial_images": 3}
    url = f"{running.url}/v1/images/generations"
    with httpx.stream("POST", url, json=asked, timeout=HANG_S) as reply:
        lines = reply.iter_lines()
        while next(lines) != "event: image_generation.partial_image":
            pass  # Heartbeats.
        os.killpg(running.process.pid, signal.SIGINT)
        assert "event: image_generation.completed" in list(lines)
    assert running.process.stdout is not None
    last_words = running.process.stdout.read()
    running.process.wait(timeout=HANG_S)
    assert "Stopped." in last_words
    assert "Traceback" not in last_words
    wait_for(lambda: not any(one.is_running() and one.status() != "zombie" for one in family))
