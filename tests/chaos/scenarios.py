"""All scenarios, in the order in which they are played."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from . import host, hung, killed, leaving, memory, overload, slow, soak, updates
from .outcome import Found
from .stage import Stage


@dataclass(frozen=True)
class Scenario:
    """`limit_s` is how long it may take, a soak's own time aside; `quick` whether CI plays it."""

    play: Callable[[Stage], Awaitable[Found]]
    limit_s: float
    quick: bool = False


SCENARIOS: dict[str, Scenario] = {
    "out of memory": Scenario(memory.out_of_memory, 60, quick=True),
    "clock jumps": Scenario(host.clock_jumps, 60, quick=True),
    "overload": Scenario(overload.overload, 260, quick=True),
    "clients leave": Scenario(leaving.clients_leave, 180, quick=True),
    # Before replicas are killed: a new one grows for a while.
    "soak": Scenario(soak.soak, 90, quick=True),
    "replica killed": Scenario(killed.replica_killed, 700, quick=True),
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
    "slow clients": Scenario(slow.slow_clients, 260),
}
