"""Another configuration, other weights and back, and weights that must not be served, under load.

On a cluster `make rehearse` does it, with workers, head and gateway: scenarios `configuration
changed`, `broken configuration` and `blue/green`.
"""

import asyncio
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from serve.miniature import WEIGHTS_DIR
from serve.weights.manifest import MANIFEST_NAME

from .load import TOLERANCE, difference, key
from .outcome import Check, Found, NotMet, none_lost
from .service import VARIANTS, Config
from .stage import Stage, now_s

_SHARE = 0.3
_ROLL_LIMIT_S = 150.0
# The load must not notice a configuration that is refused.
_BROKEN_FOR_S = 3.0
# Requests of the new weights, or of the old ones again, and of nothing else.
_AFTERWARDS_S = 10.0
_UNETS = ("unet", "unet_distilled")
_VICTIM = Path("unet_distilled", "diffusion_pytorch_model.fp16.safetensors")


async def configuration_rolled(stage: Stage) -> Found:
    """Another argument for all replicas, and back."""
    good = stage.service.config
    async with stage.load(_SHARE, seed=10) as load:
        await asyncio.sleep(2)
        first_s = await _roll(stage, stage.service.changed(max_queue_s=5.0))
        second_s = await _roll(stage, good)
        await asyncio.sleep(3)
    return Found(
        "another `max_queue_s`, which replaces every replica, and back",
        [none_lost(load.samples), _seconds(first_s, second_s)],
        load.samples,
    )


async def weights_rolled(stage: Stage) -> Found:
    """Weights with other values, and back: each picture is of the old ones or of the new ones."""
    good, client = stage.service.config, stage.client
    folder = await asyncio.to_thread(_other_values, stage.scratch / "other")
    client.differing.clear()
    client.may_differ = True
    try:
        async with stage.load(_SHARE, seed=11) as there:
            await asyncio.sleep(2)
            first_s = await _roll(stage, stage.service.changed(weights_dir=str(folder)))
            rolled_s = now_s()
            await asyncio.sleep(_AFTERWARDS_S)
        of_new = [one for one in client.differing if one.fired_s > rolled_s]
        after = [one for one in there.samples if there.fired_s(one) > rolled_s]
        new = await client.drawn(stage.requests.bodies)
        async with stage.load(_SHARE, seed=12) as back:
            await asyncio.sleep(2)
            second_s = await _roll(stage, good)
            returned_s = now_s()
            await asyncio.sleep(_AFTERWARDS_S)
    finally:
        client.may_differ = False
    strange = sum(
        difference(one.picture, new[key(one.asked)]) > TOLERANCE for one in client.differing
    )
    left_over = sum(one.fired_s > returned_s for one in client.differing)
    return Found(
        "weights with other values (a folder of their own, adopted), and back",
        [
            none_lost([*there.samples, *back.samples]),
            Check(f"{strange} pictures of neither", "0", not strange),
            Check(f"{len(of_new)} of {len(after)} of the new weights once they were there", "all",
                  0 < len(of_new) == len(after)),
            Check(f"{left_over} of them once they were gone", "0", not left_over),
            _seconds(first_s, second_s),
        ],
        [*there.samples, *back.samples],
    )  # fmt: skip


async def broken_weights(stage: Stage) -> Found:
    """A pickle, a truncated, a swapped, a changed file: refused by name; the old ones serve."""
    good = stage.service.config
    canary = stage.scratch / "canary"
    unnamed, replaced, never = [], [], []
    async with stage.load(_SHARE, seed=13) as load:
        before = {name: stage.service.pids(name) for name in VARIANTS}
        for what, spoil in _SPOILED.items():
            folder = stage.scratch / what
            await asyncio.to_thread(shutil.copytree, WEIGHTS_DIR, folder)
            named = await asyncio.to_thread(spoil, folder, canary)
            stage.service.apply(stage.service.changed(weights_dir=str(folder), verify_hashes=True))
            try:
                await stage.wait_until(lambda: "FAILED" in _status(stage), 120, "a refusal")
            except NotMet:
                never.append(what)
            if str(named) not in _message(stage):
                unnamed.append(f"{what}: {_message(stage)[-200:]}")
            await asyncio.sleep(_BROKEN_FOR_S)
            await _roll(stage, good)
            # New ones may have come and gone beside them.
            if any(before[name] - stage.service.pids(name) for name in VARIANTS):
                replaced.append(what)
                before = {name: stage.service.pids(name) for name in VARIANTS}
        await asyncio.sleep(2)
    return Found(
        f"put in place of the good ones, in turn: {', '.join(_SPOILED)}",
        [
            none_lost(load.samples),
            Check(f"not refused: {', '.join(never) or 'none'}", "none", not never),
            Check(f"not named: {'; '.join(unnamed) or 'none'}", "none", not unnamed),
            Check(f"replicas replaced for: {', '.join(replaced) or 'none'}", "none", not replaced),
            Check(f"the pickle {'ran' if canary.exists() else 'never ran'}", "never",
                  not canary.exists()),
        ],
        load.samples,
    )  # fmt: skip


async def _roll(stage: Stage, config: Config) -> float:
    """Put a configuration and wait until it is there; returns how long that took."""
    began_s = now_s()
    stage.service.apply(config)
    await asyncio.sleep(1)  # Until Serve has begun.
    await stage.wait_until(stage.service.ready, _ROLL_LIMIT_S, "the end of a rolling update")
    return now_s() - began_s


def _status(stage: Stage) -> str:
    return str(stage.service.application().status)


def _message(stage: Stage) -> str:
    app = stage.service.application()
    return "\n".join([app.message, *(one.message for one in app.deployments.values())])


def _seconds(first_s: float, second_s: float) -> Check:
    return Check(f"there after {first_s:.0f} s, back after {second_s:.0f} s", "measured", True)


def _other_values(folder: Path) -> Path:
    """A family folder whose UNets draw otherwise; its manifest pins what is there."""
    shutil.copytree(WEIGHTS_DIR, folder)
    for name in _UNETS:
        path = folder / name / "diffusion_pytorch_model.fp16.safetensors"
        values = load_file(path)
        values["conv_out.bias"] = values["conv_out.bias"] + np.float16(0.1)
        save_file(values, path, metadata={"format": "pt"})
    (folder / MANIFEST_NAME).unlink()
    adopt = [sys.executable, "-m", "serve.weights", "adopt", str(folder), "--family", "miniature"]
    subprocess.run(adopt, check=True, capture_output=True)
    return folder


class _Canary:
    """Leaves a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str, str], object], tuple[str, str]]:
        return open, (str(self._path), "w")


def _pickled(folder: Path, canary: Path) -> Path:
    path = folder / "unet" / "diffusion_pytorch_model.bin"
    path.write_bytes(pickle.dumps(_Canary(canary)))
    return path


def _truncated(folder: Path, _: Path) -> Path:
    path = folder / _VICTIM
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def _swapped(folder: Path, _: Path) -> Path:
    shutil.copy(folder / "unet" / _VICTIM.name, folder / _VICTIM)
    return folder / _VICTIM


def _changed(folder: Path, _: Path) -> Path:
    """The same length and a valid header: only the hash tells."""
    path = folder / _VICTIM
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


# Each names the file that must be named.
_SPOILED: dict[str, Callable[[Path, Path], Path]] = {
    "a pickle": _pickled,
    "a truncated file": _truncated,
    "a swapped file": _swapped,
    "changed bytes": _changed,
}
