"""One bridge, and a network namespace with an address per pod."""

import subprocess

_PREFIX = "10.203.0"
_BRIDGE = "pods"
_FIRST, _LAST = 2, 254
_HARDWARE_ADDRESS = "02:00:00:00:00:01"


class Network:
    """The pods' network; there is nothing beyond it, as the rehearsal's own has no other link."""

    def __init__(self) -> None:
        self._next = _FIRST
        # Its own: else the bridge takes the least address of its links, which changes as pods come
        # and go, and what they send it is lost until they ask for it again.
        _ip("link", "add", _BRIDGE, "address", _HARDWARE_ADDRESS, "type", "bridge")
        _ip("address", "add", f"{_PREFIX}.1/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")

    def add(self) -> tuple[str, str]:
        """A new namespace; returns its name and its address.

        Raises:
            RuntimeError: all addresses have been used.
        """
        address = self._next_address()
        name = f"pod{address.rpartition('.')[2]}"
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", name, "master", _BRIDGE, "up")
        _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        # Ray finds its own address by the route to a public one; nothing is sent there.
        _ip("-n", name, "route", "add", "default", "via", f"{_PREFIX}.1")
        return name, address

    def add_virtual(self) -> str:
        """An address before pods, on the rehearsal's own side of the bridge.

        Raises:
            RuntimeError: all addresses have been used.
        """
        address = self._next_address()
        _ip("address", "add", f"{address}/32", "dev", _BRIDGE)
        return address

    def remove(self, name: str) -> None:
        """Take a pod's namespace away, and its link with it."""
        _ip("netns", "delete", name)

    def _next_address(self) -> str:
        if self._next > _LAST:
            raise RuntimeError(f"all of {_PREFIX}.0/24 has been used")
        number, self._next = self._next, self._next + 1
        return f"{_PREFIX}.{number}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
