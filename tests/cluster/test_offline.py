"""Nothing is fetched while serving: a whole `python -m serve` where the network is watched."""

import json
import subprocess
import sys

import pytest

from loadtests import namespaces
from tests.cluster.watched import VARIANTS
from tests.machine import ROOT

REASON = namespaces.missing()


def asks_which_cloud_it_is(seen: str) -> bool:
    """Ray does so at its start, usage statistics or not, and tells nobody what it heard."""
    return seen.startswith("169.254.169.254: ") or "metadata google internal" in seen


@pytest.mark.thorough
@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_from_start_to_end_nothing_else_tries_to_leave_the_machine() -> None:
    done = subprocess.run(
        namespaces.in_namespaces([sys.executable, "-m", "tests.cluster.watched"]),
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
