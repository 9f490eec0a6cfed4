"""Before any test module is imported: switches of Ray and the model libraries, threads, signals."""

import asyncio
import inspect
import os
import signal
from typing import Any

import pytest
from hypothesis import settings

from serve.settings import go_offline, prepare_ray_environment
from tests.chromium import browser, open_page

__all__ = ["browser", "open_page"]

prepare_ray_environment()
go_offline()
# Two pytest workers and Ray's processes share the cores; torch in all of them would use each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a script runs in the background ignores SIGINT, and so would every command that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


# The same examples in every run: what only some find belongs to `make fuzz`, not to whoever comes
# by. Its option `--hypothesis-profile` takes precedence.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
CLUSTER = "tests/cluster/"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what uses a Ray cluster, which takes longest."""
    items.sort(key=lambda item: not item.nodeid.startswith(CLUSTER))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a coroutine test on an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(pyfuncitem.obj(**arguments))
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep a module's tests on one worker, and all that use a Ray cluster on one.

    `--dist loadgroup` would do that by marks, but has no effect with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return CLUSTER if nodeid.startswith(CLUSTER) else nodeid.split("::")[0]

    return ByModule(config, log)
