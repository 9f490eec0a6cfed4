"""One pod: namespaces of its own, and the container's command as their process 1."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from loadtests.namespaces import SCRATCH

from .network import Network

ROOT = Path(__file__).resolve().parents[2]
# A memory file system; its pages count only once they are written.
_SHM = "2g"


def mounted_at(path: str) -> str:
    """Where a pod has what is mounted at `path`: in its own /tmp, since `/` is this machine's."""
    return f"/tmp{path}"


class Pod:
    """Its address stays the same for life; its container may be started again.

    `hosts`, a file, is its /etc/hosts, which may be written while it runs.
    """

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self._network = network
        self.namespace, self.address = network.add()
        self.folder = SCRATCH / name
        (self.folder / "tmp" / "home").mkdir(parents=True)
        self.hosts = self.folder / "hosts"
        self.hosts.write_text("")
        (self.folder / "resolv.conf").write_text("")
        self.started_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the container's process 1 lives."""
        return self._process is not None and self._process.poll() is None

    def mount(self, path: str, files: Mapping[str, str]) -> None:
        """Give it a folder of a Secret's files, for its owner only, at `mounted_at(path)`."""
        folder = self.folder / mounted_at(path).removeprefix("/")
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(content)

    def start(self, args: str, environment: Mapping[str, str]) -> None:
        """Run `/bin/bash -c -- ARGS`, as the operator has the container do."""
        base = {
            "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            # Its own: a token that lies in the user's home would switch Ray's authentication on.
            "HOME": "/tmp/home",
            "LANG": "C.UTF-8",
            "RAY_AUTH_MODE": "disabled",
            # Ray starts workers at nice 15; then anything else on the machine starves them.
            "RAY_worker_niceness": "0",
            # Raising it may be forbidden here.
            "RAY_START_ULIMIT_OPEN_FILES": "20000",
        }
        script = self._mounts() + f"\nexec /bin/bash -c -- {shlex.quote(args)}"
        with (self.folder / "output.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    # The pod dies with the thread that started it, the kubelet of this rehearsal.
                    "setpriv", "--pdeathsig", "KILL", "--",
                    "nsenter", f"--net=/run/netns/{self.namespace}",
                    "unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child",
                    "--mount-proc", "/bin/bash", "-euc", script,
                ],
                cwd=ROOT,
                env={**base, **environment, "HOME": base["HOME"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the rehearsal alone.
            )  # fmt: skip
        self.started_s = time.monotonic()

    def signal(self, number: int) -> None:
        """Send the container's process 1 a signal; nothing where it has ended."""
        child = self._first_process()
        if child is not None:
            os.kill(child, number)

    def kill(self) -> None:
        """SIGKILL to process 1; the kernel ends all others of the pod with it."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def terminate(self, grace_period_s: float) -> float:
        """SIGTERM, and SIGKILL after the grace period; returns how long it took."""
        began_s = time.monotonic()
        self.signal(signal.SIGTERM)
        end_s = began_s + grace_period_s
        while self.running and time.monotonic() < end_s:
            time.sleep(0.1)
        self.kill()
        return time.monotonic() - began_s

    def remove(self) -> None:
        """End it and free its address."""
        self.kill()
        self._network.remove(self.namespace)

    def tail(self, lines: int = 20) -> str:
        """The last lines of what the container printed."""
        log = self.folder / "output.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _first_process(self) -> int | None:
        """Process 1 of the pod, by the number that it has out here."""
        if self._process is None or self._process.poll() is not None:
            return None
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(children[0]) if children else None

    def _mounts(self) -> str:
        """The pod's file system: this machine's, but for what is a pod's own."""
        tmp = self.folder / "tmp"
        lines = [
            f"mount -t tmpfs -o size={_SHM},mode=1777 tmpfs /dev/shm",
            f"mount --bind {self.hosts} /etc/hosts",
            # All names are in /etc/hosts; to ask a server that isn't there would take seconds.
            f"[ ! -e /etc/resolv.conf ] || mount --bind {self.folder}/resolv.conf /etc/resolv.conf",
            f"hostname {self.name}",
        ]
        if ROOT.is_relative_to("/tmp"):  # A checkout there must stay in sight.
            inside = tmp / ROOT.relative_to("/tmp")
            lines += [f"mkdir -p {inside}", f"mount --bind {ROOT} {inside}"]
        return "\n".join([*lines, f"mount --rbind {tmp} /tmp", f"cd {ROOT}"])
