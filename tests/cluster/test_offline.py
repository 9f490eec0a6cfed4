"""Nothing is fetched while serving: a whole `python -m serve` where the network is watched."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.cluster.watched import VARIANTS
from tests.machine import ROOT

_TOOLS = ("unshare", "ip", "mount", "setpriv")


def in_namespaces(*command: str) -> list[str]:
    """A command with a network, mounts and processes of its own; they end with it."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *user, *own, *command]


@pytest.fixture(scope="module", autouse=True)
def _namespaces_are_to_be_had() -> None:
    if not sys.platform.startswith("linux") or not all(map(shutil.which, _TOOLS)):
        pytest.skip(f"needs Linux with {', '.join(_TOOLS)}")
    script = "from tests.cluster.watched import prepare; prepare()"
    tried = subprocess.run(
        in_namespaces(sys.executable, "-c", script), cwd=ROOT, capture_output=True, text=True
    )
    if tried.returncode:
        reason = (tried.stderr.strip().splitlines() or ["?"])[-1]
        pytest.skip(f"needs network namespaces and an interface that leads nowhere: {reason}")


def asks_which_cloud_it_is(seen: str) -> bool:
    """Ray does so at its start, usage statistics or not, and tells nobody what it heard."""
    return seen.startswith("169.254.169.254: ") or "metadata google internal" in seen


@pytest.mark.thorough
def test_from_start_to_end_nothing_else_tries_to_leave_the_machine() -> None:
    done = subprocess.run(
        in_namespaces(sys.executable, "-m", "tests.cluster.watched"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["drawn"]) == {*VARIANTS, "auto"}
    (seen,) = found["seen"]  # An attempt is seen.
    assert seen.startswith("203.0.113.9: ")
    assert [one for one in found["left"] if not asks_which_cloud_it_is(one)] == []
