"""The autoscaler's container: its script, as rendered, with a stand-in for `ray`."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import HANG_S
from tests.manifests.rendering import ray_service, rendered

# Leaves its process id and arguments, then waits to be ended, as the autoscaler does.
RAY = """#!/bin/bash
echo $$ "$@" >> "$STARTED"
exec sleep infinity
"""


class Container:
    """The script, and what it has started so far."""

    def __init__(self, folder: Path) -> None:
        self._started = folder / "started"
        self._started.touch()
        (folder / "ray").write_text(RAY)
        (folder / "ray").chmod(0o755)
        options = ray_service(rendered("gpu"))["spec"]["rayClusterConfig"]["autoscalerOptions"]
        self.process = subprocess.Popen(
            [*options["command"], *options["args"]],
            env={
                "PATH": f"{folder}:{os.environ['PATH']}",
                "STARTED": str(self._started),
                "RAY_CLUSTER_NAME": "cluster",
                "RAY_CLUSTER_NAMESPACE": "namespace",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for_start(self, number: int) -> int:
        """Wait for that start, counted from 1; returns the process's id."""
        deadline_s = time.monotonic() + HANG_S
        while len(lines := self._started.read_text().splitlines()) < number:
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        pid, arguments = lines[number - 1].split(maxsplit=1)
        expected = "kuberay-autoscaler --cluster-name cluster --cluster-namespace namespace"
        assert arguments == expected
        return int(pid)

    def end(self) -> str:
        """SIGTERM, and what was printed until nothing of the container is left."""
        self.process.terminate()
        # The pipe ends with the last process that has it, the stand-in included.
        return self.process.communicate(timeout=HANG_S)[0]


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path)
    yield made
    with contextlib.suppress(ProcessLookupError):
        os.killpg(made.process.pid, signal.SIGKILL)


def test_sigterm_ends_it_at_once_with_the_autoscaler(container: Container) -> None:
    container.wait_for_start(1)
    assert container.end() == ""
    assert container.process.returncode == 0


def test_an_autoscaler_that_ended_is_started_again_and_then_ended_with_it(
    container: Container,
) -> None:
    os.kill(container.wait_for_start(1), signal.SIGKILL)
    os.kill(container.wait_for_start(2), signal.SIGSEGV)
    container.wait_for_start(3)
    printed = container.end()
    assert "status 137" in printed
    assert "status 139" in printed
    assert container.process.returncode == 0


def test_sigterm_ends_it_between_two_starts(container: Container) -> None:
    os.kill(container.wait_for_start(1), signal.SIGKILL)
    assert container.process.stdout is not None
    while "started again" not in container.process.stdout.readline():
        assert container.process.poll() is None
    container.end()
    assert container.process.returncode == 0
