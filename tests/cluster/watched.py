"""Inside a network of its own: `python -m serve` from start to end, and what tried to leave.

Run by `test_offline.py`. Beside loopback there is one interface, to which every other address is
routed, names included, and which leads nowhere: what is sent there are the attempts.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

PORT = 8000
URL = f"http://127.0.0.1:{PORT}"
VARIANTS = ("original", "distilled", "distilled-tiny-vae")
_INTERFACE, _OTHER_END = "watched", "nowhere"
_GATEWAY, _RESOLVER = "192.0.2.2", "198.51.100.53"
# An address for documentation, RFC 5737.
_OUTSIDE = ("203.0.113.9", 443)
_ALL_PROTOCOLS = 3  # ETH_P_ALL


def prepare() -> None:
    """Loopback, the watched interface, and a resolver behind it."""
    for command in (
        "ip link set lo up",
        f"ip link add {_INTERFACE} type veth peer name {_OTHER_END}",
        # Without addresses of IPv6 they send nothing of their own.
        f"ip link set {_INTERFACE} addrgenmode none",
        f"ip link set {_OTHER_END} addrgenmode none",
        f"ip address add 192.0.2.1/24 dev {_INTERFACE}",
        f"ip link set {_OTHER_END} up",
        f"ip link set {_INTERFACE} up",
        f"ip neighbour add {_GATEWAY} lladdr 02:00:00:00:00:02 nud permanent dev {_INTERFACE}",
        f"ip route add default via {_GATEWAY} dev {_INTERFACE}",
    ):
        subprocess.run(command.split(), check=True, capture_output=True)
    with tempfile.NamedTemporaryFile("w") as resolver:
        resolver.write(f"nameserver {_RESOLVER}\noptions timeout:1 attempts:1\n")
        resolver.flush()
        Path(resolver.name).chmod(0o644)
        bind = ["mount", "--bind", resolver.name, "/etc/resolv.conf"]
        subprocess.run(bind, check=True, capture_output=True)


class Watch(threading.Thread):
    """Reads what arrives at the other end: addresses, and what can be read of the content."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.attempts: list[str] = []
        self._end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        self._end.bind((_OTHER_END, 0))

    def run(self) -> None:
        """Until the process ends."""
        while True:
            frame = self._end.recv(65536)
            # Ethernet's header has 14 bytes; an IPv4 header its destination from byte 16 on.
            target = socket.inet_ntoa(frame[30:34]) if frame[12:14] == b"\x08\x00" else "no IPv4"
            self.attempts.append(
                f"{target}: {re.sub(rb'[^ -~]+', b' ', frame[34:]).decode()[:120]}"
            )


def served() -> dict[str, int]:
    """Serve, draw with every variant, stop; the bytes of each picture."""
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "--port", str(PORT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    words = ""
    for line in process.stdout:
        words += line
        if "Ctrl-C" in line:
            break
    else:
        raise SystemExit(f"it did not start:\n{words}")
    try:
        for path in ("/", "/docs", "/v1/models", "/readyz", "/openapi.json"):
            _get(urllib.request.Request(URL + path))
        return {model: len(_draw(model)) for model in (*VARIANTS, "auto")}
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def _draw(model: str) -> bytes:
    asked = {"model": model, "prompt": "a red star", "num_inference_steps": 3, "seed": 1}
    headers = {"Content-Type": "application/json", "Accept": "image/png"}
    picture = _get(
        urllib.request.Request(f"{URL}/v1/images/generations", json.dumps(asked).encode(), headers)
    )
    assert picture.startswith(b"\x89PNG")
    return picture


def _get(request: Any) -> bytes:
    with urllib.request.urlopen(request, timeout=120) as reply:
        found: bytes = reply.read()
        return found


def main() -> None:
    """Print what was drawn, what tried to leave, and that an attempt would have been seen."""
    os.environ["no_proxy"] = "*"
    prepare()
    watch = Watch()
    watch.start()
    drawn = served()
    left = list(watch.attempts)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attempt:
        attempt.sendto(b"an attempt", _OUTSIDE)
    end = time.monotonic() + 10
    while len(watch.attempts) == len(left) and time.monotonic() < end:
        time.sleep(0.05)
    print(json.dumps({"drawn": drawn, "left": left, "seen": watch.attempts[len(left) :]}))


if __name__ == "__main__":
    main()
