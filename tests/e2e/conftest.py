"""The scenarios' cluster, and the table at their end."""

import pytest

from .cluster import Cluster, Options
from .report import Row, as_table

_rows: list[Row] = []


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    return Cluster(Options.read())


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    return _rows


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _rows:
        terminalreporter.write("\n" + as_table(_rows, Options.read().image))
