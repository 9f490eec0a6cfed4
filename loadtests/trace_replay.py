"""A trace of arrivals, replayed by Locust: `locust -f loadtests/trace_replay.py --trace FILE`.

One user fires every request at its instant, whatever has come back, and ends the run with the last
answer. Response times count from the scheduled instant; Locust rounds them to two digits before it
takes percentiles, `loadtests.openloop --arrivals FILE` does not.
"""

import time
from pathlib import Path
from typing import Any

import gevent
from gevent.pool import Group
from locust import events, tag, task

from loadtests import arrivals
from loadtests.locustfile import VariantUser


@events.init_command_line_parser.add_listener
def _add_arguments(parser: Any) -> None:
    parser.add_argument("--trace", default="", help="CSV file with a column arrival_s")


class TraceUser(VariantUser):
    """All arrivals by one user, also in a distributed run."""

    fixed_count = 1
    concurrency = 900  # Requests under way at once; Locust's own limit is ten.

    def on_start(self) -> None:
        """Read the trace."""
        super().on_start()
        self._schedule_s = arrivals.trace(Path(self.options.trace))

    @tag("trace")
    @task
    def replay(self) -> None:
        """Once; then the run ends."""
        under_way = Group()
        started = time.monotonic()
        for at_s in self._schedule_s:
            gevent.sleep(max(0.0, started + at_s - time.monotonic()))
            under_way.spawn(lambda due=started + at_s: self.draw(late_s=time.monotonic() - due))
        under_way.join()
        self.environment.runner.quit()


@events.init.add_listener
def _check(environment: Any, **_: Any) -> None:
    """A trace that can't be read ends the run before it begins, in one line."""
    if environment.parsed_options is None or not hasattr(environment.parsed_options, "trace"):
        return
    try:
        arrivals.trace(Path(environment.parsed_options.trace))
    except (ValueError, OSError) as fault:
        raise SystemExit(f"distilled-sd-serve: trace: {fault}") from None
