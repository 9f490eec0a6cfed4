"""The machine round the service: no file grows, a full disk, no names.

What is loaded goes on being served; nothing in it needs a file or a name.
"""

import asyncio
import contextlib
import resource
import socket
from pathlib import Path

from .. import machine
from ..local import LocalStage
from ..outcome import Check, Found, none, none_lost

_SHARE = 0.5
_LASTS_S = 10.0


async def no_file_grows(stage: LocalStage) -> Found:
    """For 10 s every write of replicas, routers and proxy to a file fails (RLIMIT_FSIZE 0)."""
    pids = set().union(*machine.by_role().values())
    async with stage.load(_SHARE, seed=14) as load:
        await asyncio.sleep(1)
        try:
            _limit_files(pids, 0)
            await asyncio.sleep(_LASTS_S)
            ready = await asyncio.to_thread(stage.service.ready)
        finally:
            _limit_files(pids, resource.RLIM_INFINITY)
    ended = pids - set().union(*machine.by_role().values())
    return Found(
        [none_lost(load.samples), none("processes ended", len(ended)), _ready(ready)],
        load.samples,
    )


def _limit_files(pids: set[int], size: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


async def disk_full(stage: LocalStage) -> Found:
    """For 10 s the disk that Ray and the service write to has no byte left."""
    async with stage.load(_SHARE, seed=15) as load:
        await asyncio.sleep(1)
        filler = stage.service.scratch / "filler"
        try:
            size = await asyncio.to_thread(_fill, filler)
            await asyncio.sleep(_LASTS_S)
            ready = await asyncio.to_thread(stage.service.ready)
        finally:
            filler.unlink()
    return Found(
        [none_lost(load.samples), _ready(ready)],
        load.samples,
        notes=[f"the disk is a tmpfs, filled with {size / 2**20:.0f} MiB"],
    )


def _fill(path: Path) -> int:
    size = 0
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            size += file.write(bytes(2**16))
    return size


def _ready(ready: bool) -> Check:
    return Check(f"{'' if ready else 'not '}ready meanwhile", "ready", ready)


async def no_names(stage: LocalStage) -> Found:
    """The whole run, start included, has a network with loopback only."""
    try:
        found = await asyncio.to_thread(socket.getaddrinfo, "example.org", 443)
    except OSError:
        found = []
    async with stage.load(_SHARE, seed=16) as load:
        await asyncio.sleep(_LASTS_S)
    return Found(
        [none_lost(load.samples), none("addresses of example.org", len(found))],
        load.samples,
    )
