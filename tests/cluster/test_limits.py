"""Keys and limits through Serve's proxy, over a denoiser that only sleeps."""

import concurrent.futures
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from serve.keys import new_key
from tests.cluster.conftest import Fake, StartFake
from tests.machine import HANG_S, wait_for

ALICE, ALICES_LINE = new_key("alice")
BATCH, BATCHS_LINE = new_key("batch", "distilled")
OTHERS = [new_key(f"other-{number}") for number in range(3)]
LINES = "\n".join([ALICES_LINE, BATCHS_LINE, *(line for _, line in OTHERS), ""])


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(LINES)
    return path


@pytest.fixture(scope="module")
def fake(start_fake: StartFake, keys_file: Path) -> Fake:
    """Needs keys, takes one request of each at once, draws one, and lets one wait."""
    return start_fake(
        "limits",
        0.05,
        max_ongoing_requests=1,
        max_queued_requests=1,
        api_keys_file=keys_file,
        max_requests_per_key=1,
        body_timeout_s=3,
        retry_after_s=1,
    )


@pytest.fixture(scope="module")
def url(fake: Fake) -> str:
    return fake.url


def client(url: str, key: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, **{"max_retries": 0, **options})


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def status_of(url: str, key: str) -> int:
    return httpx.get(url, headers=bearer(key), timeout=HANG_S).status_code


@contextmanager
def raw(url: str, headers: dict[str, str], body: bytes = b"") -> Iterator[socket.socket]:
    """A connection on which a request's head, and so much of its body, was sent."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    head = f"POST {parts.path}/v1/images/generations HTTP/1.1\r\nHost: {parts.hostname}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((parts.hostname, parts.port), timeout=HANG_S) as connection:
        connection.sendall(head.encode() + b"\r\n" + body)
        yield connection


def answer(connection: socket.socket) -> tuple[int, dict[str, Any]]:
    """The status and the body of what comes until the server closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_the_openai_client_meets_its_own_errors(url: str) -> None:
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
        assert httpx.get(url + path, timeout=HANG_S).status_code == 200


def test_a_stream_holds_its_keys_place_until_its_client_leaves(fake: Fake) -> None:
    alice = client(fake.url, ALICE)
    many = {"num_inference_steps": 150}
    prompt = "hold after 100: left"
    events = alice.images.generate(prompt=prompt, stream=True, partial_images=3, extra_body=many)
    next(iter(events))
    with pytest.raises(openai.RateLimitError) as refused:
        alice.images.generate(prompt="x")
    assert refused.value.code == "too_many_requests"
    assert refused.value.response.headers["retry-after"] == "1"
    events.close()  # type: ignore[union-attr]
    models = f"{fake.url}/v1/models"
    wait_for(lambda: status_of(models, ALICE) == 200)
    fake.let_go("left")


def test_the_openai_client_waits_while_the_queue_is_full(fake: Fake) -> None:
    statuses: list[int] = []

    def note(response: httpx.Response) -> None:
        statuses.append(response.status_code)
        if response.status_code == 429:
            refused = json.loads(response.read())["error"]
            assert (refused["code"], refused["type"]) == ("overloaded", "rate_limit_error")
            assert int(response.headers["retry-after"]) >= 1
            fake.let_go("full")

    def draw(key: str) -> object:
        hooked = httpx.Client(event_hooks={"response": [note]}, timeout=HANG_S)
        patient = client(fake.url, key, max_retries=100, http_client=hooked)
        return patient.images.generate(prompt="x", extra_body={"num_inference_steps": 1}).data

    (first, _), *others = OTHERS
    with concurrent.futures.ThreadPoolExecutor() as pool:
        before = fake.steps()
        held = pool.submit(fake.ask, bearer(first), prompt="hold after 0: full")
        wait_for(lambda: fake.steps() > before)
        # There is a place for one of them; the other is refused, and comes again.
        assert all(pool.map(draw, [key for key, _ in others]))
        assert held.result().status_code == 200
    assert statuses.count(200) == 2
    assert 429 in statuses


def test_a_request_that_a_full_replica_keeps_waiting_is_told_as_behind_a_full_queue(
    fake: Fake,
) -> None:
    (first, _), (second, _), _ = OTHERS
    with concurrent.futures.ThreadPoolExecutor() as pool:
        before = fake.steps()
        held = pool.submit(fake.ask, bearer(first), prompt="hold after 0: kept")
        wait_for(lambda: fake.steps() > before)
        late = fake.ask(bearer(second), deadline_s=1)
        fake.let_go("kept")
        assert held.result().status_code == 200
    assert (late.status_code, late.json()["error"]["code"]) == (429, "overloaded")
    assert int(late.headers["retry-after"]) >= 1


def test_a_changed_file_of_keys_needs_no_restart(url: str, keys_file: Path) -> None:
    key, line = new_key("alice-2")
    new = keys_file.with_name("new")
    new.write_text(f"{LINES}{line}\n")
    new.replace(keys_file)
    models = f"{url}/v1/models"
    wait_for(lambda: status_of(models, key) == 200)
    new.write_text(LINES)
    new.replace(keys_file)
    wait_for(lambda: status_of(models, key) == 401)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-request-timeout-seconds", "3600"),
        ("x-request-timeout-seconds", "0"),  # None at all, to Serve.
        ("x-request-disconnect-disabled", "?1"),
    ],
)
def test_no_client_lifts_serves_limits(fake: Fake, name: str, value: str) -> None:
    before = fake.steps()
    reply = fake.ask(headers={**bearer(ALICE), name: value})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, name)
    assert fake.steps() == before


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
    assert status_of(f"{url}/v1/models", ALICE) == 200


def test_metrics_are_not_on_the_public_port(url: str) -> None:
    parts = urlsplit(url)
    for path in (f"{parts.path}/metrics", "/metrics", "/-/metrics", f"{parts.path}/v1/metrics"):
        there = f"http://{parts.netloc}{path}"
        reply = httpx.get(there, headers=bearer(ALICE), timeout=HANG_S)
        assert reply.status_code == 404
        assert "ray_" not in reply.text


def test_replicas_and_proxies_log_names_but_no_keys(url: str) -> None:
    import ray

    assert status_of(f"{url}/v1/models", ALICE) == 200
    node = ray._private.worker._global_node
    logs = Path(node.get_logs_dir_path(), "serve")

    def text() -> str:
        return "".join(
            path.read_text(errors="replace") for path in logs.iterdir() if path.is_file()
        )

    wait_for(lambda: "key alice" in text())
    for secret in (ALICE, BATCH, ALICES_LINE.split()[1], BATCHS_LINE.split()[1]):
        assert secret not in text()
