"""What Ray's autoscaler asks KubeRay for: one more worker for a replica that has no place.

It only grows groups. A worker that nobody needs any more stays until its cluster goes; the real
one takes it away after `idleTimeoutSeconds`.
"""

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from .serve_config import Config, matches, options
from .translation import Group

# Ray's own looks every 5 s; a replica that finds a place at once isn't there twice.
_WAITED_S = 6.0


class Autoscaler:
    """Of one cluster; remembers since when a group's replicas have been waiting."""

    def __init__(self) -> None:
        # By group.
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
        waiting: set[str] = set()
        demand: Counter[str] = Counter()
        asked = options(config)
        for app in applications.values():
            for deployment, details in app["deployments"].items():
                actor = asked.get(deployment, {})
                name = _group_for(actor, groups)
                if name is None:
                    continue
                for replica in details["replicas"]:
                    demand[name] += actor["num_gpus"]
                    if replica["state"] == "STARTING" and not replica.get("node_ip"):
                        waiting.add(name)
        self._waiting_since_s = {one: self._waiting_since_s.get(one, now_s) for one in waiting}
        for name, since_s in self._waiting_since_s.items():
            group, pods = groups[name]
            full = demand[name] > pods * group.gpus
            if full and pods < group.most_pods and now_s - since_s >= _WAITED_S:
                self._waiting_since_s[name] = now_s  # The new worker gets its time, too.
                return name
        return None


def _group_for(actor: Config, groups: Mapping[str, tuple[Group, int]]) -> str | None:
    """The first worker group that a replica with these options may be in; GPUs only."""
    if not actor.get("num_gpus"):
        return None
    for name, (group, _) in groups.items():
        if group.gpus and matches(actor.get("label_selector") or {}, group.labels):
            return name
    return None
