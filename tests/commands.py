"""Command lines in this process: a new one takes seconds to import what it needs."""

import contextlib
import io
import signal
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Done:
    """What a command line has left, as `subprocess.run` tells it."""

    returncode: int
    stdout: str
    stderr: str


def run_main(main: Callable[[], int], *arguments: object) -> Done:
    """Call a module's `main` as its command line does; signal handlers are as before."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    status: object
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setattr("sys.argv", [main.__module__, *map(str, arguments)])
        try:
            status = main()
        except SystemExit as end:  # argparse
            status = end.code
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    assert isinstance(status, int)
    return Done(status, out.getvalue(), err.getvalue())
