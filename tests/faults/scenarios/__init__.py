"""All scenarios, in the order in which they are played."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ..outcome import Found
from . import clients, host, hung, killed, overload, pods, simulated, soak, updates


@dataclass(frozen=True)
class Scenario:
    """`play` takes a stage of the service; `quick` is whether `--quick` plays it.

    `limit_s` is how long it may take, a soak's own time aside.
    """

    play: Callable[[Any], Awaitable[Found]]
    limit_s: float
    quick: bool = False
    service: Literal["local", "overlay"] = "local"

    @property
    def title(self) -> str:
        return (self.play.__doc__ or "").partition("\n")[0]


_OnOverlay = partial(Scenario, service="overlay")
SCENARIOS = {
    "out of memory": Scenario(simulated.out_of_memory, 60, quick=True),
    "clock jumps": Scenario(simulated.clock_jumps, 60, quick=True),
    "overload": Scenario(overload.overload, 260, quick=True),
    "clients leave": Scenario(clients.clients_leave, 180, quick=True),
    # Before replicas are killed: a new one grows for a while.
    "soak": Scenario(soak.soak, 90, quick=True),
    "replica killed": Scenario(killed.replica_killed, 800, quick=True),
    "stuck step": Scenario(hung.stuck_step, 120),
    "frozen process": Scenario(hung.frozen_process, 150),
    "router killed": Scenario(killed.router_killed, 90),
    "proxy killed": Scenario(killed.proxy_killed, 90),
    "no file grows": Scenario(host.no_file_grows, 60),
    "disk full": Scenario(host.disk_full, 60),
    "no names": Scenario(host.no_names, 60),
    "configuration rolled": Scenario(updates.configuration_rolled, 320),
    "weights rolled": Scenario(updates.weights_rolled, 360),
    "broken weights": Scenario(updates.broken_weights, 400),
    "slow clients": Scenario(clients.slow_clients, 260),
    "placement": _OnOverlay(pods.placement, 60, quick=True),
    "configuration changed": _OnOverlay(pods.configuration_changed, 600, quick=True),
    "broken configuration": _OnOverlay(pods.broken_configuration, 900, quick=True),
    "worker drained": _OnOverlay(pods.worker_drained, 600),
    "worker killed": _OnOverlay(pods.worker_killed, 600, quick=True),
    "head killed": _OnOverlay(pods.head_killed, 600),
    "head evicted": _OnOverlay(pods.head_evicted, 600),
    "autoscaler ended": _OnOverlay(pods.autoscaler_ended, 600),
    "blue/green": _OnOverlay(pods.blue_green, 1800),
}
