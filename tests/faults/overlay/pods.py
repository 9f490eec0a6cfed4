"""Pods: a bridge between them, and each container's command as process 1 of its namespaces."""

import contextlib
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from loadtests.namespaces import SCRATCH
from tests.machine import ROOT

_PREFIX = "10.203.0"
_BRIDGE = "pods"
# Stands in for `ray kuberay-autoscaler`, which would ask an API server. Neither handles SIGTERM, so
# that as process 1 it is ignored.
_RAY = "#!/bin/sh\nexec sleep infinity\n"
_PATH = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


def mounted_at(path: str) -> str:
    """Where a pod has what is mounted at `path`: in its own /tmp, since `/` is this machine's."""
    return f"/tmp{path}"


class Network:
    """The pods' network, and their DNS, which is the /etc/hosts of every pod; nothing is beyond."""

    def __init__(self) -> None:
        self._last = 1
        self._addresses: dict[str, str] = {}
        self._pods: list[Pod] = []
        self._lock = threading.Lock()
        # A hardware address of its own: else the bridge takes the least of its links', which
        # changes as pods come and go, and what they send it is lost until they ask for it again.
        _ip(f"link add {_BRIDGE} address 02:00:00:00:00:01 type bridge")
        _ip(f"address add {_PREFIX}.1/24 dev {_BRIDGE}")
        _ip(f"link set {_BRIDGE} up")

    def next_address(self) -> str:
        with self._lock:
            self._last += 1
            if self._last > 254:
                raise RuntimeError(f"all of {_PREFIX}.0/24 has been used")
            return f"{_PREFIX}.{self._last}"

    def add_virtual(self) -> str:
        """An address before pods, on this side of the bridge."""
        address = self.next_address()
        _ip(f"address add {address}/32 dev {_BRIDGE}")
        return address

    def add(self, pod: "Pod") -> None:
        """Link a pod's new namespace, and have the pod know all names."""
        name = pod.namespace
        _ip(f"netns add {name}")
        _ip(f"link add {name} type veth peer name eth0 netns {name}")
        _ip(f"link set {name} master {_BRIDGE} up")
        _ip(f"-n {name} link set lo up")
        _ip(f"-n {name} address add {pod.address}/24 dev eth0")
        _ip(f"-n {name} link set eth0 up")
        # Ray finds its own address by the route to a public one; nothing is sent there.
        _ip(f"-n {name} route add default via {_PREFIX}.1")
        with self._lock:
            self._pods.append(pod)
            self._write_hosts()

    def remove(self, pod: "Pod") -> None:
        with self._lock:
            self._pods.remove(pod)
        _ip(f"netns delete {pod.namespace}")

    def point(self, name: str, address: str) -> None:
        """Give a name an address, or another one."""
        with self._lock:
            self._addresses[name] = address
            self._write_hosts()

    def _write_hosts(self) -> None:
        shared = [f"{address} {name}" for name, address in self._addresses.items()]
        for pod in self._pods:
            lines = ["127.0.0.1 localhost", f"{pod.address} {pod.name}", *shared, ""]
            pod.hosts.write_text("\n".join(lines))  # In place: the pod has this very file.


def _ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True)


class Pod:
    """Its address stays the same for life; its containers may be started again.

    The first container is Ray's. A head may have its autoscaler's beside it.
    """

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self.address = network.next_address()
        self.namespace = f"pod{self.address.rpartition('.')[2]}"
        self.folder = SCRATCH / name
        (self.folder / "tmp" / "home").mkdir(parents=True)
        self.hosts = self.folder / "hosts"
        (self.folder / "resolv.conf").write_text("")
        self.started_s = 0.0
        self._containers: list[subprocess.Popen[bytes]] = []
        self._network = network
        network.add(self)

    @property
    def running(self) -> bool:
        """Whether the first container runs."""
        return bool(self._containers) and self._containers[0].poll() is None

    @property
    def whole(self) -> bool:
        return bool(self._containers) and all(one.poll() is None for one in self._containers)

    @property
    def autoscalers(self) -> list[psutil.Process]:
        """The processes that stand in for `ray kuberay-autoscaler`: one, or none between two."""
        found = []
        with contextlib.suppress(psutil.Error):  # What ends meanwhile.
            for one in self._containers[1:]:
                processes = psutil.Process(one.pid).children(recursive=True)
                found += [one for one in processes if one.cmdline() == ["sleep", "infinity"]]
        return found

    def mount(self, path: str, files: Mapping[str, str]) -> None:
        """Give it a folder of a Secret's files, for its owner only, at `mounted_at(path)`."""
        folder = self.folder / mounted_at(path).removeprefix("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(content)

    def start(
        self, args: str, environment: Mapping[str, str], autoscaler: Sequence[str] = ()
    ) -> None:
        """Run `/bin/bash -c -- ARGS`, as the operator has Ray's container do, and the other's."""
        self._kill(self._containers)
        self._containers = [self._run(["/bin/bash", "-c", "--", args], environment)]
        if autoscaler:
            stand_in = self.folder / "tmp" / "autoscaler" / "ray"
            stand_in.parent.mkdir(exist_ok=True)
            stand_in.write_text(_RAY)
            stand_in.chmod(0o755)
            environment = {**environment, "PATH": f"/tmp/autoscaler:{_PATH}"}
            self._containers.append(self._run(autoscaler, environment))
        self.started_s = time.monotonic()

    def _run(
        self, command: Sequence[str], environment: Mapping[str, str]
    ) -> "subprocess.Popen[bytes]":
        environment = {
            "PATH": _PATH,
            "PYTHONPATH": str(ROOT),
            "LANG": "C.UTF-8",
            "RAY_AUTH_MODE": "disabled",
            # Ray starts workers at nice 15; then anything else on the machine starves them.
            "RAY_worker_niceness": "0",
            # Raising it may be forbidden here.
            "RAY_START_ULIMIT_OPEN_FILES": "20000",
            **environment,
            # Its own: a token that lies in the user's home would switch Ray's authentication on.
            "HOME": "/tmp/home",
        }
        inside = ["nsenter", f"--net=/run/netns/{self.namespace}"]
        inside += ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child"]
        script = f"{self._mounts()}\nexec {shlex.join(command)}"
        with (self.folder / "output.log").open("ab") as log:
            return subprocess.Popen(
                [*inside, "--mount-proc", "/bin/bash", "-euc", script],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the command line alone.
            )

    def kill(self) -> None:
        """SIGKILL to process 1 of the first container."""
        self._kill(self._containers[:1])

    @staticmethod
    def _kill(containers: "Sequence[subprocess.Popen[bytes]]") -> None:
        for one in containers:
            # Its child, process 1, goes with it: --kill-child; and the kernel ends all others.
            one.kill()
            one.wait()

    def terminate(self, grace_period_s: float) -> float:
        """SIGTERM to each process 1, SIGKILL after the grace period; returns how long it took."""
        began_s = time.monotonic()
        for one in self._containers:
            if one.poll() is None:
                for process in psutil.Process(one.pid).children():
                    process.terminate()
        while self._alive() and time.monotonic() < began_s + grace_period_s:
            time.sleep(0.1)
        self._kill(self._containers)
        return time.monotonic() - began_s

    def _alive(self) -> bool:
        return any(one.poll() is None for one in self._containers)

    def remove(self) -> None:
        self._kill(self._containers)
        self._network.remove(self)

    def tail(self, lines: int = 20) -> str:
        log = self.folder / "output.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _mounts(self) -> str:
        """The pod's file system: this machine's, but for what is a pod's own."""
        tmp = self.folder / "tmp"
        lines = [
            # Its pages count only once they are written.
            "mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm",
            f"mount --bind {self.hosts} /etc/hosts",
            # All names are in /etc/hosts; to ask a server that isn't there would take seconds.
            f"[ ! -e /etc/resolv.conf ] || mount --bind {self.folder}/resolv.conf /etc/resolv.conf",
            f"hostname {self.name}",
        ]
        if ROOT.is_relative_to("/tmp"):  # A checkout there must stay in sight.
            inside = tmp / ROOT.relative_to("/tmp")
            lines += [f"mkdir -p {inside}", f"mount --bind {ROOT} {inside}"]
        return "\n".join([*lines, f"mount --rbind {tmp} /tmp", f"cd {ROOT}"])
