"""Pods without Ray: what is a pod's own, how it ends, and that nothing outlives the run."""

import itertools
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from loadtests import namespaces
from tests.machine import HANG_S, ROOT, wait_for

REASON = namespaces.missing(["nsenter"])
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PREAMBLE = """
import sys, time
from loadtests import namespaces
from tests.faults.overlay.pods import Network, Pod

namespaces.prepare()
network = Network()


def pod(name, command):
    made = Pod(name, network)
    network.point(f"{name}-svc.test", made.address)
    made.start(command, {})
    return made


def wait_for(text, made, limit_s=120):
    end_s = time.monotonic() + limit_s
    while text not in made.tail():
        assert time.monotonic() < end_s, made.tail()
        time.sleep(0.05)
"""


RUN = "import sys; from loadtests import namespaces; sys.exit(namespaces.run(sys.argv[1:]))"


def story(text: str) -> "subprocess.Popen[str]":
    """Run a story of pods inside namespaces of its own."""
    inside = [sys.executable, "-c", PREAMBLE + textwrap.dedent(text)]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *inside],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Its own process group, as under a terminal.
    )


def told(text: str) -> str:
    told, _ = story(text).communicate(timeout=HANG_S)
    return told


def test_pods_reach_each_other_by_name_and_share_no_files_and_no_processes() -> None:
    output = told(
        """
        server = pod("server", "touch /tmp/mine; echo $$ $(hostname); "
                     "exec python3 -u -m http.server 8000")
        wait_for("Serving HTTP", server)
        client = pod("client", "python3 -c 'import urllib.request as r; "
                     'print(r.urlopen("http://server-svc.test:8000").status, end=" ")'
                     "'; ls /tmp/mine 2>/dev/null || echo nothing; echo done")
        wait_for("done", client)
        print(server.tail().splitlines()[0], client.tail().split())
        """
    )
    assert output.strip() == "1 server ['200', 'nothing', 'done']"


def test_sigterm_reaches_process_one_and_a_container_starts_again_at_the_same_address() -> None:
    output = told(
        """
        polite = pod("polite", "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done")
        deaf = pod("deaf", "echo up; while :; do sleep 0.1; done")
        for one in (polite, deaf):
            wait_for("up", one)
        print(polite.terminate(120) < 120, "bye" in polite.tail(), polite.running)
        address = deaf.address
        print(2 <= deaf.terminate(2), deaf.running)
        deaf.start("echo again; exec sleep 1000", {})
        wait_for("again", deaf)
        print(deaf.running, deaf.address == address)
        """
    )
    # Process 1 of a pod ignores a SIGTERM that it doesn't handle.
    assert output.splitlines() == ["True True False", "True False", "True True"]


def terminate(running: "subprocess.Popen[str]") -> None:
    running.terminate()


def kill(running: "subprocess.Popen[str]") -> None:
    running.kill()


def press_ctrl_c(running: "subprocess.Popen[str]") -> None:
    os.killpg(running.pid, signal.SIGINT)


@pytest.mark.parametrize("end", [terminate, kill, press_ctrl_c], ids=lambda one: one.__name__)
def test_nothing_outlives_a_run_that_is_ended(
    end: Callable[["subprocess.Popen[str]"], None],
) -> None:
    marker = f"1000.{next(_MARKERS)}{os.getpid()}"
    running = story(
        f"""
        import signal
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        one = pod("one", "echo up; sleep {marker}; true")
        wait_for("up", one)
        print("up", flush=True)
        time.sleep(1000)
        """
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        wait_for(lambda: processes(marker))
        end(running)
        running.wait(HANG_S)
        wait_for(lambda: not processes(marker))
    finally:
        running.kill()


# None of another test's processes is taken for this one's.
_MARKERS = itertools.count(1)


def processes(marker: str) -> list[Path]:
    """Processes whose command line ends with the marker."""
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = one.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"sleep" in words[0] and marker.encode() in words:
            found.append(one)
    return found
