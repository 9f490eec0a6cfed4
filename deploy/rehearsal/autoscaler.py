"""What Ray's autoscaler asks KubeRay for: one more worker for a replica that has no place.

It only grows groups. A worker that nobody needs any more stays until its cluster goes; the real
one takes it away after `idleTimeoutSeconds`.
"""

import time
from collections.abc import Mapping
from typing import Any

from .serve_config import Config, matches, selectors
from .translation import Group

# Ray's own looks every 5 s; a replica that finds a place at once isn't there twice.
_WAITED_S = 6.0


class Autoscaler:
    """Of one cluster; remembers since when replicas have been waiting."""

    def __init__(self) -> None:
        self._waiting_since_s: dict[str, float] = {}

    def group_to_grow(
        self,
        groups: Mapping[str, tuple[Group, int]],
        config: Config,
        applications: Mapping[str, Any],
        now_s: float | None = None,
    ) -> str | None:
        """The worker group that needs one more pod, by name; None where none does.

        Args:
            groups: each group and how many pods it is to have, by name.
            config: whose `label_selector`s say where a replica may be.
            applications: what Serve tells.
            now_s: the clock.
        """
        now_s = time.monotonic() if now_s is None else now_s
        waiting = {
            replica["replica_id"]: deployment
            for app in applications.values()
            for deployment, details in app["deployments"].items()
            for replica in details["replicas"]
            if replica["state"] == "STARTING" and not replica.get("node_ip")
        }
        self._waiting_since_s = {one: self._waiting_since_s.get(one, now_s) for one in waiting}
        wanted = selectors(config)
        for replica, deployment in waiting.items():
            if now_s - self._waiting_since_s[replica] < _WAITED_S:
                continue
            for name, (group, pods) in groups.items():
                fits = matches(wanted.get(deployment, {}), group.labels)
                if fits and not group.is_head and pods < group.most_pods:
                    self._waiting_since_s.clear()  # The new worker gets its time, too.
                    return name
        return None
