"""Clients that others wrote draw, stream, are refused and leave; each is a program of its own."""

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.cluster.conftest import Fake, StartFake
from tests.machine import HANG_S, ROOT, wait_for

pytestmark = pytest.mark.thorough
FOLDER = ROOT / "tests/clients"
# At 0.1 s each, of which a client stays for the first four.
MANY_STEPS = 150
# Some hundred megabytes are to be fetched.
INSTALL_S = 480


def node() -> list[str]:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("there is no node and npm on this machine")
    install(
        FOLDER / "package-lock.json",
        FOLDER / "node_modules",
        ("npm", "ci", "--prefix", str(FOLDER), "--ignore-scripts"),
    )
    return ["node"]


def python() -> list[str]:
    folder, requirements = FOLDER / ".venv", FOLDER / "requirements.txt"
    own = str(folder / "bin/python")
    install(
        requirements,
        folder,
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (own, "-m", "pip", "install", "--quiet", "-r", str(requirements)),
    )
    return [own]


def java() -> list[str]:
    if shutil.which("javac") is None:
        pytest.skip("there is no JDK on this machine")
    version = subprocess.run(["javac", "-version"], capture_output=True, text=True, check=True)
    if int(re.split(r"[ .]", version.stdout)[1]) < 16:
        pytest.skip(f"{version.stdout.strip()}: before 16 its HttpClient can't be cancelled")
    return ["java"]


def install(pinned: Path, folder: Path, *commands: tuple[str, ...]) -> None:
    """Install what a file pins, unless it is there; skip the test where that can't be done."""
    fault = installation_fault(pinned, folder, commands)
    if fault is not None:
        pytest.skip(f"{pinned.relative_to(ROOT)} can't be installed: {fault}")


@cache
def installation_fault(
    pinned: Path, folder: Path, commands: tuple[tuple[str, ...], ...]
) -> str | None:
    done = folder / "installed"
    if done.exists() and done.read_text() == pinned.read_text():
        return None
    for command in commands:
        try:
            subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_S)
        except subprocess.CalledProcessError as fault:
            return fault.stderr.strip()[-300:]
        except subprocess.TimeoutExpired as fault:
            return str(fault)
    done.write_text(pinned.read_text())
    return None


@dataclass(frozen=True)
class Client:
    """A program of `tests/clients`, and what it calls a refusal and its own leaving."""

    program: str
    interpreter: Callable[[], list[str]]
    refused: str
    left: str
    streams: bool = False
    edits: bool = False

    def start(self, url: str, scenario: str, prompt: str = "a red star") -> subprocess.Popen[str]:
        command = [*self.interpreter(), str(FOLDER / self.program), url, scenario, prompt]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


CLIENTS = [
    Client(
        "openai_client.py",
        lambda: [sys.executable],
        "BadRequestError",
        "closed",
        streams=True,
        edits=True,
    ),
    Client("litellm_client.py", python, "BadRequestError", "CancelledError"),
    Client("webuiapi_client.py", python, "RuntimeError 400", "RuntimeError 409", edits=True),
    Client("openai.mjs", node, "BadRequestError", "APIUserAbortError", streams=True, edits=True),
    Client("ai_sdk.mjs", node, "AI_APICallError", "AbortError"),
    Client("JdkHttpClient.java", java, "400", "cancelled", streams=True),
]


def of_each(clients: list[Client]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("client", clients, ids=[one.program for one in clients])


@pytest.fixture(scope="module")
def fake(start_fake: StartFake) -> Fake:
    return start_fake("clients", 0.1, a1111=True)


def answer(process: subprocess.Popen[str], said: str = "") -> dict[str, Any]:
    """What a program prints last; `said` is what it reads before."""
    try:
        out, err = process.communicate(said, HANG_S)
    finally:
        process.kill()
    assert process.returncode == 0, err
    printed: dict[str, Any] = json.loads(out.splitlines()[-1])
    return printed


def seeds(images: list[str]) -> list[int]:
    """The fake's pictures have their seeds as red."""
    pictures = [Image.open(io.BytesIO(base64.b64decode(image))) for image in images]
    assert {picture.size for picture in pictures} == {(96, 96)}
    return [int(np.asarray(picture)[0, 0, 0]) for picture in pictures]


@of_each(CLIENTS)
def test_it_draws(fake: Fake, client: Client) -> None:
    assert seeds(answer(client.start(fake.url, "draw"))["images"]) == [7]


@of_each(CLIENTS)
def test_it_draws_two(fake: Fake, client: Client) -> None:
    assert seeds(answer(client.start(fake.url, "two"))["images"]) == [7, 8]


@of_each([client for client in CLIENTS if client.streams])
def test_it_streams(fake: Fake, client: Client) -> None:
    streamed = answer(client.start(fake.url, "stream"))
    *previews, last = streamed["events"]
    # A busy replica may leave previews out.
    assert set(previews) <= {"image_generation.partial_image"}
    assert last == "image_generation.completed"
    assert seeds(streamed["images"]) == [7]


@of_each([client for client in CLIENTS if client.edits])
def test_it_edits(fake: Fake, client: Client, tmp_path: Path) -> None:
    pixels = np.full((96, 96, 4), 255, np.uint8)
    pixels[:48, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    edited = answer(client.start(fake.url, "edit", str(tmp_path / "picture.png")))
    assert seeds(edited["images"]) == [7]


@of_each(CLIENTS)
def test_a_refusal_is_its_own_error_with_our_words(fake: Fake, client: Client) -> None:
    refused = answer(client.start(fake.url, "refused"))
    assert refused["error"] == client.refused
    assert "steps: 0 was given; it must be an integer from 1 to 150" in str(refused)
    assert "invalid_value" in str(refused)


@of_each(CLIENTS)
def test_it_leaves_and_the_work_stops(fake: Fake, client: Client) -> None:
    before = fake.steps()
    name = Path(client.program).stem
    process = client.start(fake.url, "leave", f"hold after 3: {name}")
    try:
        wait_for(lambda: fake.steps() > before + 3 or process.poll() is not None)
        assert answer(process, "\n")["error"] == client.left
    finally:
        process.kill()
        fake.let_go(name)
    # There is one slot: it is free once the first request has left the batch.
    assert fake.ask().status_code == 200
    assert fake.steps() < before + MANY_STEPS
