"""Load shapes, beside the users: `locust -f loadtests/locustfile.py,loadtests/shapes.py`.

`--load-shape` picks step, saturation, spike or soak; `--peak` and `--shape-seconds` size it. Locust
then ignores `--users` and `--run-time`.
"""

from typing import Any, get_args

from locust import LoadTestShape, events

from loadtests import profiles
from loadtests.profiles import Profile


@events.init_command_line_parser.add_listener
def _add_arguments(parser: Any) -> None:
    parser.add_argument("--load-shape", choices=get_args(Profile), default="step")
    parser.add_argument("--peak", type=int, default=8, help="users at most")
    parser.add_argument("--shape-seconds", type=float, default=120, help="length of the run")


class Profiled(LoadTestShape):
    """Follows the profile that the command line names."""

    _saturation: profiles.Saturation | None = None

    def tick(self) -> tuple[int, float] | None:
        """Users now, all started within a second; None ends the run."""
        assert self.runner is not None
        options: Any = self.runner.environment.parsed_options
        at_s, duration_s, peak = self.get_run_time(), options.shape_seconds, options.peak
        users: int | None = peak
        if options.load_shape == "saturation":
            self._saturation = self._saturation or profiles.Saturation(duration_s, peak)
            users = self._saturation.users(at_s, self.runner.environment.stats.total.num_requests)
        elif options.load_shape != "soak":
            users = getattr(profiles, options.load_shape)(at_s, duration_s, peak)
        return None if users is None or at_s >= duration_s else (users, float(peak))
