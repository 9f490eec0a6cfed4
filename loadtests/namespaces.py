"""Linux namespaces for a command and all its processes, so that nothing reaches or outlives them.

The command starts itself again as the first process of new process, network and mount namespaces.
What listens on all interfaces in there is reached from nowhere else. When the command ends, however
it ends, the kernel ends all processes in them, and links, addresses and temporary files go with the
namespaces.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# In memory, and only in the command's own mount namespace.
SCRATCH = Path("/run/scratch")
_INSIDE = "--inside"
_TOOLS = ("unshare", "ip", "setpriv", "mount")


def missing(more_tools: Sequence[str] = ()) -> str:
    """Why this machine can't make them; empty where it can.

    `more_tools` are commands that are needed beside those of this module.
    """
    if not sys.platform.startswith("linux"):
        return "needs Linux: it lives in namespaces"
    for tool in (*_TOOLS, *more_tools):
        if shutil.which(tool) is None:
            return f"needs the command {tool!r} (Debian: iproute2, mount, util-linux)"
    probe = "mount -t tmpfs tmpfs /run && ip link add probe type bridge"
    tried = subprocess.run(
        in_namespaces(["sh", "-c", probe]), capture_output=True, text=True, check=False
    )
    if tried.returncode:
        return (
            "needs the right to make network namespaces, as root or in user namespaces: "
            f"{tried.stderr.strip()}"
        )
    return ""


def enter(
    module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
) -> None:
    """Run `python -m MODULE` again inside namespaces, and exit as it does; returns where it is.

    `environment` is added to its environment.
    """
    if _INSIDE in arguments:
        prepare()
    else:
        command = [sys.executable, "-m", module, *arguments, _INSIDE]
        sys.exit(run(command, environment or {}))


def prepare() -> None:
    """Make the scratch folder, and the loopback link work; only inside the namespaces."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True)
    SCRATCH.mkdir()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command as the first process of its namespaces; returns its exit status.

    `environment` is added to its environment. SIGTERM is handed on to it. Ctrl-C reaches it from
    the terminal. SIGKILL ends all of it.
    """
    variables = [f"{name}={value}" for name, value in (environment or {}).items()]
    process = subprocess.Popen(in_namespaces(["env", *variables, *command]))

    def hand_on(number: int, _: object) -> None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            os.kill(int(children[0]), number)

    signal.signal(signal.SIGTERM, hand_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return process.wait()


def in_namespaces(command: Sequence[str]) -> list[str]:
    """Prefix a command so that it runs as the first process of namespaces of its own."""
    # Without root, in a user namespace, where this user is root.
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    own = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *user, *own, *command]
