"""`python -m tests.e2e`, or `make e2e`: the overlays on a throw-away cluster, and what it cost.

The context must be named in E2E_CONTEXT, and its name must say that it may be thrown away. The
others have defaults: E2E_IMAGE, E2E_NAMESPACE, E2E_GPUS (logical ones that the node gets), E2E_RATE
(requests a second), E2E_URL (the serve Service, where the node's port 30800 isn't reached). Any
arguments are pytest's: -k head.
"""

import sys
from pathlib import Path

import pytest

from .cluster import Cluster, NoCluster, Options, Refused

# What test runners take for "skipped".
_SKIPPED = 77


def main() -> int:
    """pytest's exit status; 2: a context that isn't one to throw away; 77: there is no cluster."""
    try:
        Cluster(Options.read()).find_operator()
    except NoCluster as lack:
        print(f"Skipped: {lack}", file=sys.stderr)
        return _SKIPPED
    except Refused as fault:
        print(f"distilled-sd-serve: {fault}", file=sys.stderr)
        return 2
    # Named, since pytest collects no such file by itself; a test here may take as long as it does.
    file = Path(__file__).with_name("scenarios.py")
    return int(pytest.main([str(file), "-p", "no:xdist", "--timeout=0", "-v", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
