"""Pods without Ray: what is a pod's own, how it ends, and that nothing outlives the run."""

import os
import signal
import subprocess
import sys
import textwrap
from uuid import uuid4

import psutil
import pytest

from loadtests import namespaces
from tests.machine import HANG_S, ROOT, wait_for

REASON = namespaces.missing(["nsenter"])
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)

PREAMBLE = """
import signal, time
from loadtests import namespaces
from tests.faults.overlay.pods import Network, Pod
from tests.machine import wait_for

signal.signal(signal.SIGTERM, signal.default_int_handler)
namespaces.prepare()
network = Network()


def pod(name, command, text):
    made = Pod(name, network)
    network.point(f"{name}-svc.test", made.address)
    made.start(command, {})
    wait_for(lambda: text in made.tail())
    return made
"""
RUN = "import sys; from loadtests import namespaces; sys.exit(namespaces.run(sys.argv[1:]))"


def play(story: str) -> "subprocess.Popen[str]":
    inside = [sys.executable, "-c", PREAMBLE + textwrap.dedent(story)]
    return subprocess.Popen(
        [sys.executable, "-c", RUN, *inside],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # Its own process group, as under a terminal.
    )


def test_pods_reach_each_other_by_name_and_share_no_files_and_no_processes() -> None:
    output, _ = play(
        """
        command = "touch /tmp/mine; echo $$ $(hostname); exec python3 -u -m http.server 8000"
        server = pod("server", command, "Serving HTTP")
        client = pod("client", "python3 -c 'import urllib.request as r; "
                     'print(r.urlopen("http://server-svc.test:8000").status, end=" ")'
                     "'; ls /tmp/mine 2>/dev/null || echo nothing; echo done", "done")
        print(server.tail().splitlines()[0], client.tail().split())
        """
    ).communicate(timeout=HANG_S)
    assert output.strip() == "1 server ['200', 'nothing', 'done']"


def test_sigterm_reaches_process_one_and_a_container_starts_again_at_the_same_address() -> None:
    output, _ = play(
        """
        command = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.1; done"
        polite = pod("polite", command, "up")
        # Process 1 of a pod ignores a SIGTERM that it doesn't handle.
        deaf = pod("deaf", "echo up; while :; do sleep 0.1; done", "up")
        print(polite.terminate(120) < 120, "bye" in polite.tail(), polite.running)
        address = deaf.address
        print(2 <= deaf.terminate(2), deaf.running)
        deaf.start("echo again; exec sleep 1000", {})
        wait_for(lambda: "again" in deaf.tail())
        print(deaf.running, deaf.address == address)
        """
    ).communicate(timeout=HANG_S)
    assert output.splitlines() == ["True True False", "True False", "True True"]


def test_a_pod_lasts_as_long_as_its_autoscaler_which_as_process_one_ignores_sigterm() -> None:
    output, _ = play(
        """
        from tests.faults.overlay.manifests import render
        from tests.faults.overlay.translation import autoscaler
        from tests.manifests.rendering import OVERLAYS

        overlay = render(OVERLAYS / "gpu")
        loop = autoscaler(overlay)
        overlay.cluster["autoscalerOptions"] = {"version": "v2"}
        for command in (loop, autoscaler(overlay)):
            made = Pod(f"head{len(command)}", network)
            script = "trap 'exit 0' TERM; echo first time; while :; do sleep 0.1; done"
            made.start(script, {}, command)
            wait_for(lambda: "first time" in made.tail() and made.autoscalers)
            first, = made.autoscalers
            first.kill()
            first.wait()
            if command is loop:
                wait_for(lambda: made.autoscalers)
            else:
                wait_for(lambda: not made.whole)
            print(made.running, made.whole)
            script = "trap 'exit 0' TERM; echo second time; while :; do sleep 0.1; done"
            made.start(script, {}, command)
            # Before it has its trap, process one ignores SIGTERM.
            wait_for(lambda: "second time" in made.tail() and made.autoscalers)
            limit_s = 120 if command is loop else 5
            print(made.terminate(limit_s) < limit_s, made.whole)
        """
    ).communicate(timeout=HANG_S)
    assert output.splitlines() == ["True True", "True False", "True False", "False False"]


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL", "Ctrl-C"])
def test_nothing_outlives_a_run_that_is_ended(end: str) -> None:
    marker = uuid4().hex
    running = play(
        f"""
        pod("one", "echo up; exec -a {marker} sleep 1000", "up")
        print("up", flush=True)
        time.sleep(1000)
        """
    )

    def alive() -> bool:
        return any(
            marker in (p.info["cmdline"] or [""])[0] for p in psutil.process_iter(["cmdline"])
        )

    try:
        assert running.stdout is not None
        assert running.stdout.readline() == "up\n"
        wait_for(alive)
        if end == "Ctrl-C":
            os.killpg(running.pid, signal.SIGINT)
        else:
            running.send_signal(signal.Signals[end])
        running.wait(HANG_S)
        wait_for(lambda: not alive())
    finally:
        running.kill()
