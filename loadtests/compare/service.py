"""The service that a comparison starts itself: the embedded miniature on a free port."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

from ..machine import free_port

_END_S = 60
# What `auto` keeps where no SLO is given: about three of the miniature's single-user times on one
# core. The policy must know it before anything is measured.
_AUTO_SLO_S = 2.0


@contextlib.contextmanager
def own_service(variants: str = "all", slo_s: float | None = None) -> Iterator[str]:
    """Start it, wait until every variant is warm, and end it afterwards; yields its address.

    Args:
        variants: a,b, or all.
        slo_s: for the policy of `model: "auto"`, the best variant that keeps it.

    Raises:
        RuntimeError: it did not start; the message is its own.
    """
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "serve", "--port", str(port), "--variants", variants,
         "--auto-slo-s", str(slo_s or _AUTO_SLO_S)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Ctrl-C in the terminal is for the comparison, which then ends the service itself.
        start_new_session=True,
    )  # fmt: skip
    try:
        yield _address_when_ready(process)
    finally:
        # A second Ctrl-C must not cut this short and leave the service behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        signal.signal(signal.SIGINT, before)


def _address_when_ready(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None  # A pipe, see above.
    last = ""
    for line in process.stdout:
        last = line.strip() or last
        if line.startswith("Ready on "):
            # So that later output cannot fill the pipe and block the service.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            return line.removeprefix("Ready on ").strip()
    raise RuntimeError(last or "the service ended without a word")
