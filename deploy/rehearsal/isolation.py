"""Namespaces that the whole rehearsal lives in, itself included.

The rehearsal starts itself again as the first process of new process, network and mount
namespaces. When it ends, however it ends, the kernel ends all processes in them, and bridges,
addresses and temporary files go with the namespaces.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

# In memory, and only in the rehearsal's own mount namespace.
SCRATCH = Path("/run/rehearsal")
_INSIDE = "--inside"
_TOOLS = ("unshare", "nsenter", "ip", "setpriv", "mount")


def missing() -> str:
    """Why this machine can't hold a rehearsal; empty where it can."""
    if not sys.platform.startswith("linux"):
        return "needs Linux: a pod is a set of namespaces"
    for tool in _TOOLS:
        if shutil.which(tool) is None:
            return f"needs the command {tool!r} (Debian: iproute2, mount, util-linux)"
    probe = "mount -t tmpfs tmpfs /run && ip link add rehearsal type bridge"
    tried = subprocess.run(
        _in_namespaces(["sh", "-c", probe]), capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return (
            "needs the right to make network namespaces, as root or in user namespaces: "
            f"{tried.stderr.strip()}"
        )
    return ""


def enter(arguments: Sequence[str]) -> None:
    """Run this module again inside namespaces, and exit as it does; returns where it is inside."""
    if _INSIDE in arguments:
        prepare()
    else:
        sys.exit(run([sys.executable, "-m", str(__package__), *arguments, _INSIDE]))


def prepare() -> None:
    """Make the scratch folder; only inside the namespaces."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    SCRATCH.mkdir()


def run(command: Sequence[str]) -> int:
    """Run a command as the first process of its namespaces; returns its exit status.

    SIGTERM is handed on to it. Ctrl-C reaches it from the terminal. SIGKILL ends all of it.
    """
    process = subprocess.Popen(_in_namespaces(command))

    def hand_on(number: int, _: object) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            os.kill(int(children[0]), number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return process.wait()


def _in_namespaces(command: Sequence[str]) -> list[str]:
    # Without root, in a user namespace, where this user is root.
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    own = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *user, *own, *command]
