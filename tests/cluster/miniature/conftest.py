"""The shipped miniature, served as a user would: one application for all tests of this folder."""

from collections.abc import Iterator

import pytest

from tests.cluster.conftest import Cluster, wait_until_ready


@pytest.fixture(scope="package")
def miniature(cluster: Cluster) -> Iterator[str]:
    """Every variant in one replica, by the command line of `serve run`; yields their address."""
    cluster.serve_run("serve.app:build_app", "variants=all", "packed=true", "slots=8")
    wait_until_ready(cluster.url)
    yield cluster.url
    cluster.delete("default")
