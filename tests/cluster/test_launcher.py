"""`make serve` as a person meets it: its words, its `curl` line, Ctrl-C, and what it refuses."""

import json
import os
import re
import shutil
import signal
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


ARGUMENTS = "--log-encoding JSON --verify-hashes --graceful-shutdown-timeout-s 120"


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
        ["make", "--silent", "serve", f"PORT={free_port()}", f"ARGS={ARGUMENTS}"],
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


@dataclass
class Example:
    """A request as a document shows it: a shell's or Python's, and what it should answer."""

    language: str
    code: str
    answer: str

    def run(self, url: str, folder: Path) -> bytes:
        code = self.code.replace("http://127.0.0.1:8000", url)
        command = [sys.executable, "-c", code]
        if self.language == "sh":
            # Fails where an error is answered, unless the document shows it.
            curl = "curl -s " if self.answer else "curl -sf "
            command = ["sh", "-c", code.replace("curl ", curl, 1)]
        return subprocess.run(
            command, cwd=folder, check=True, capture_output=True, timeout=HANG_S
        ).stdout


def examples(document: str) -> list[Example]:
    pattern = r"```(sh)\n(curl .*?)```(?:\n\n```json\n(.*?)```)?|```(python)\n(import .*?)```"
    found = re.findall(pattern, (ROOT / document).read_text(), re.DOTALL)
    return [Example(one[0] or one[3], one[1] or one[4], one[2]) for one in found]


def events(stream: bytes) -> list[str]:
    return [line for line in stream.decode().splitlines() if line.startswith("event: ")]


def test_the_readmes_requests_are_answered_and_its_picture_is_what_they_draw(
    running: Running, tmp_path: Path
) -> None:
    requests = examples("README.md")
    assert [one.language for one in requests] == ["sh", "sh", "sh", "python", "sh", "python", "sh"]
    answers = [one.run(running.url, tmp_path) for one in requests]
    shown = np.asarray(Image.open(ROOT / "serve/miniature/golden-vase.png").convert("RGB"))
    for name in ("vase.png", "vase-openai.png"):
        drawn = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert difference(drawn, shown) <= TOLERANCE
    assert [image["seed"] for image in json.loads(answers[1])["data"]] == [7, 8]
    # Two previews, of which a busy replica may leave some out.
    assert set(events(answers[2])[:-1]) <= {"event: image_generation.partial_image"}
    assert events(answers[2])[-1] == "event: image_generation.completed"
    # The sheet has 256 colours: about 1 of 255 from what was drawn, and other flowers far more.
    sheet = Image.open(ROOT / "serve/miniature/edit.png").convert("RGB")
    for name, tile in (("roses.png", 0), ("tulips.png", 2)):
        left = 102 * tile
        drawn = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert difference(drawn, np.asarray(sheet.crop((left, 0, left + 96, 96)))) < 3


def test_the_api_documents_requests_are_answered_as_it_says(
    running: Running, tmp_path: Path
) -> None:
    _, edit, client, two, _, stream, refused = requests = examples("docs/api.md")
    pixels = np.full((96, 96, 4), 255, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "vase.png")
    answers = {one.code: one.run(running.url, tmp_path) for one in requests}
    assert answers[edit.code] == answers[client.code] == b""
    for name in ("tulips.png", "tulips-openai.png"):
        edited = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert (edited[48:] == 255).all()
        assert (edited[:48] < 255).any()
    reply = json.loads(answers[two.code])
    assert (len(reply["data"]), reply["output_format"]) == (2, "webp")
    assert Image.open(tmp_path / "house.webp").format == "WEBP"
    assert events(answers[stream.code]).count("event: image_generation.completed") == 2
    assert answers[stream.code].endswith(b"data: [DONE]\n\n")
    assert json.loads(answers[refused.code]) == json.loads(refused.answer)


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
