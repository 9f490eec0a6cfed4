"""Streams, odd heads and leaving clients, once more behind HAProxy as the cluster configures it.

The very tests that run through Serve's own proxy, in namespaces: HAProxy listens on all interfaces.
"""

import subprocess
import sys

import pytest

from loadtests import haproxy
from tests.machine import HANG_S, ROOT

REASON = haproxy.missing()
pytestmark = [pytest.mark.thorough, pytest.mark.skipif(bool(REASON), reason=REASON)]

SAME = ("tests/cluster/test_faults.py", "tests/cluster/miniature/test_clients.py")
OUTSIDE = """
import sys
from loadtests import haproxy, namespaces
sys.exit(namespaces.run([sys.executable, "-c", *sys.argv[1:]], haproxy.environment()))
"""
INSIDE = """
import sys
import psutil, pytest
from loadtests import namespaces

class Behind:
    def pytest_runtest_teardown(self, item):
        assert "haproxy" in {one.name() for one in psutil.process_iter()}

namespaces.prepare()
sys.exit(pytest.main(sys.argv[1:], plugins=[Behind()]))
"""


def test_streams_odd_heads_and_clients_that_leave_fare_the_same_behind_haproxy() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, INSIDE, *SAME, "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=2 * HANG_S,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert "9 passed" in done.stdout
