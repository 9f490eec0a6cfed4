"""The machine round the service: no file grows, a full disk, no names, a clock that jumps.

What is loaded goes on being served; nothing here needs a file, a name or the time of day.
"""

import asyncio
import contextlib
import resource
import socket
import time
from pathlib import Path
from unittest import mock

from serve.generation import PictureFormat
from serve.replica.admission import Limits
from serve.replica.replica import ReplicaSettings, VariantReplica
from serve.variants import MINIATURE
from tests.fakes import FakeDenoiser, generation

from . import machine
from .outcome import Check, Found, Undecided, none_lost
from .stage import Stage

_SHARE = 0.5
_LASTS_S = 10.0
_JUMPS_S = (3600.0, -7200.0, 3600.0)
_NO_NAMESPACES = "needs namespaces of its own: root, or user namespaces"
_UNLIMITED = resource.RLIM_INFINITY


async def no_file_grows(stage: Stage) -> Found:
    """Replicas, routers and proxy may write to no file, as on a read-only or full disk."""
    pids = [one.pid for found in machine.by_role().values() for one in found]
    async with stage.load(_SHARE, seed=14) as load:
        await asyncio.sleep(1)
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, _UNLIMITED))
        try:
            await asyncio.sleep(_LASTS_S)
            ready = stage.service.ready()
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (_UNLIMITED, _UNLIMITED))
    kept = {one.pid for found in machine.by_role().values() for one in found}
    return Found(
        f"no file may grow (RLIMIT_FSIZE 0) in {len(pids)} replicas, routers and proxies for "
        f"{_LASTS_S:g} s: every write to a file fails, as on a read-only folder",
        [
            none_lost(load.samples),
            Check(f"{len(set(pids) - kept)} processes ended", "0", set(pids) <= kept),
            Check("ready meanwhile" if ready else "not ready meanwhile", "ready", ready),
        ],
        load.samples,
    )


async def disk_full(stage: Stage) -> Found:
    """The disk that Ray and the service write to has no byte left."""
    if not stage.isolated:
        raise Undecided(_NO_NAMESPACES)
    async with stage.load(_SHARE, seed=15) as load:
        await asyncio.sleep(1)
        filler = stage.scratch / "filler"
        size = await asyncio.to_thread(_fill, filler)
        try:
            await asyncio.sleep(_LASTS_S)
            ready = await asyncio.to_thread(stage.service.ready)
        finally:
            filler.unlink()
    return Found(
        f"filled the disk that Ray and the service write to (a tmpfs, {size / 2**20:.0f} MiB) for "
        f"{_LASTS_S:g} s",
        [
            none_lost(load.samples),
            Check("ready meanwhile" if ready else "not ready meanwhile", "ready", ready),
        ],
        load.samples,
    )


def _fill(path: Path) -> int:
    size = 0
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            size += file.write(bytes(2**16))
    return size


async def no_names(stage: Stage) -> Found:
    """No name is resolved, and no other network is there."""
    if not stage.isolated:
        raise Undecided(_NO_NAMESPACES)
    try:
        await asyncio.to_thread(socket.getaddrinfo, "example.org", 443)
        resolved = True
    except OSError:
        resolved = False
    async with stage.load(_SHARE, seed=16) as load:
        await asyncio.sleep(_LASTS_S)
    return Found(
        "the whole run, start and loading included, in a network namespace with loopback only",
        [none_lost(load.samples), Check("example.org " + ("resolved" if resolved else
         "can't be resolved"), "can't", not resolved)],
        load.samples,
    )  # fmt: skip


async def clock_jumps(stage: Stage) -> Found:
    """The time of day jumps by hours while a replica draws, in this process and without a model."""
    late, lost, now = 0, 0, time.time
    denoiser = FakeDenoiser(step_s=0.01)
    variant = MINIATURE.variants["distilled"]
    settings = ReplicaSettings("step", 4, Limits(60, 32), 5.0, True, False)
    replica = VariantReplica.__new__(VariantReplica)
    await VariantReplica.__init__(
        replica, [variant], lambda _: denoiser, settings, {variant.name: None}
    )
    sent = 0
    try:
        for jump_s in _JUMPS_S:
            jobs = [
                asyncio.create_task(
                    replica.draw(
                        generation(
                            variant=variant.name,
                            seeds=(seed,),
                            num_inference_steps=50,
                            deadline_at=time.time() + 30 if seed % 2 else None,
                        ),
                        PictureFormat("png", 90),
                    )
                )
                for seed in range(8)
            ]
            sent += len(jobs)
            await asyncio.sleep(0.1)
            with mock.patch.object(time, "time", lambda jump_s=jump_s: now() + jump_s):
                replica.check_health()
                stats = replica.record_routing_stats()
                late += not 0 <= stats["ahead_s"] < 60
                answers = await asyncio.gather(*jobs, return_exceptions=True)
            lost += sum(isinstance(one, BaseException) for one in answers)
    finally:
        replica.__del__()
    return Found(
        f"the time of day jumped by {', '.join(f'{one / 3600:+g} h' for one in _JUMPS_S)} while a "
        "replica drew, half of the requests with a deadline; in process, over a simulated device",
        [
            Check(f"{lost} lost", "0", not lost),
            Check(f"{late} absurd forecasts of the work ahead", "0", not late),
        ],
        sent=sent,
        lost=lost,
    )
