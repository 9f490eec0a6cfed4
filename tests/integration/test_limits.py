"""Keys and limits through Serve's proxy, over a denoiser that only sleeps."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from ray.serve import Application

from serve.keys import new_key
from tests.integration.test_faults import start_fake, steps_in, wait_for

Start = Callable[[Application, str], str]
ALICE, ALICES_LINE = new_key("alice")
BATCH, BATCHS_LINE = new_key("batch", "distilled")
STEP_S = 0.05


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where keys and journals are."""
    found = tmp_path_factory.mktemp("limits")
    (found / "keys").write_text(f"{ALICES_LINE}\n{BATCHS_LINE}\n")
    return found


@pytest.fixture(scope="module")
def url(start: Start, folder: Path) -> str:
    """A service that needs keys, allows each one request at once, and waits a second for a body."""
    return start_fake(
        start,
        folder,
        "limits",
        STEP_S,
        slots=4,
        api_keys_file=folder / "keys",
        max_requests_per_key=1,
        body_timeout_s=1,
        retry_after_s=3,
    )


def client(url: str, key: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@contextmanager
def raw(url: str, headers: dict[str, str], body: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which a request's head, and so much of its body, was sent."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    head = f"POST {parts.path}/v1/images/generations HTTP/1.1\r\nHost: {parts.hostname}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """The status and the body of what comes until the server closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_the_openai_client_meets_its_own_errors(url: str, folder: Path) -> None:
    with pytest.raises(openai.AuthenticationError) as unknown:
        client(url, "dsd-unknown").images.generate(prompt="x")
    assert unknown.value.code == "invalid_api_key"
    assert unknown.value.response.headers["www-authenticate"] == "Bearer"
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client(url, BATCH).images.generate(prompt="x", model="original")
    assert refused.value.code == "model_not_allowed"
    few = {"num_inference_steps": 1}
    assert client(url, ALICE).images.generate(prompt="x", extra_body=few).data
    for path in ("/healthz", "/readyz", "/docs"):
        assert httpx.get(url + path).status_code == 200


def test_a_stream_holds_its_keys_place_until_its_client_leaves(url: str) -> None:
    alice = client(url, ALICE)
    many = {"num_inference_steps": 150}
    events = alice.images.generate(prompt="x", stream=True, partial_images=3, extra_body=many)
    next(iter(events))
    with pytest.raises(openai.RateLimitError) as refused:
        alice.images.generate(prompt="x")
    assert refused.value.code == "too_many_requests"
    assert refused.value.response.headers["retry-after"] == "3"
    events.close()  # type: ignore[union-attr]
    models = f"{url}/v1/models"
    wait_for(lambda: httpx.get(models, headers=bearer(ALICE)).status_code == 200)


def test_a_changed_file_of_keys_needs_no_restart(url: str, folder: Path) -> None:
    key, line = new_key("alice-2")
    new = folder / "new"
    new.write_text(f"{ALICES_LINE}\n{BATCHS_LINE}\n{line}\n")
    new.replace(folder / "keys")
    models = f"{url}/v1/models"
    wait_for(lambda: httpx.get(models, headers=bearer(key)).status_code == 200)
    new.write_text(f"{ALICES_LINE}\n{BATCHS_LINE}\n")
    new.replace(folder / "keys")
    wait_for(lambda: httpx.get(models, headers=bearer(key)).status_code == 401)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-request-timeout-seconds", "3600"),
        ("x-request-timeout-seconds", "0"),  # None at all, to Serve.
        ("x-request-disconnect-disabled", "?1"),
    ],
)
def test_no_client_lifts_serves_limits(url: str, folder: Path, name: str, value: str) -> None:
    before = steps_in(folder / "original")
    reply = httpx.post(
        f"{url}/v1/images/generations",
        json={"prompt": "x"},
        headers={**bearer(ALICE), name: value},
    )
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)
    assert steps_in(folder / "original") == before


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"x": "y" * 64 * 1024}, id="long"),
        pytest.param({f"x-{number}": "y" for number in range(200)}, id="many"),
    ],
)
def test_too_much_header_is_refused_and_the_connection_closed(
    url: str, headers: dict[str, str]
) -> None:
    with raw(url, {**bearer(ALICE), **headers}) as connection:
        status, body = answer(connection)
    assert (status, body["error"]["code"]) == (431, "headers_too_large")


def test_a_slow_sender_is_refused_and_the_connection_closed(url: str) -> None:
    headers = {
        **bearer(ALICE), "Content-Type": "application/json", "Content-Length": "1000",
    }  # fmt: skip
    with raw(url, headers, b'{"prompt": "x"') as connection:
        status, body = answer(connection)
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    models = httpx.get(f"{url}/v1/models", headers=bearer(ALICE))
    assert models.status_code == 200


def test_metrics_are_not_on_the_public_port(url: str) -> None:
    parts = urlsplit(url)
    for path in (f"{parts.path}/metrics", "/metrics", "/-/metrics", f"{parts.path}/v1/metrics"):
        reply = httpx.get(f"http://{parts.netloc}{path}", headers=bearer(ALICE))
        assert reply.status_code == 404
        assert "ray_" not in reply.text


def test_replicas_and_proxies_log_names_but_no_keys(url: str) -> None:
    import ray

    httpx.get(f"{url}/v1/models", headers=bearer(ALICE))
    node = ray._private.worker._global_node
    logs = Path(node.get_logs_dir_path(), "serve")

    def text() -> str:
        return "".join(
            path.read_text(errors="replace") for path in logs.iterdir() if path.is_file()
        )

    wait_for(lambda: "key alice" in text())
    for secret in (ALICE, BATCH, ALICES_LINE.split()[1], BATCHS_LINE.split()[1]):
        assert secret not in text()
