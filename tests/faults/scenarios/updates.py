"""Another configuration, other weights and back, and weights that must not be served.

The scenarios of `pods` do it with workers, head and service, as on a cluster.
"""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from serve.miniature import WEIGHTS_DIR
from serve.weights.manifest import MANIFEST_NAME

from ..load import TOLERANCE, difference, key_of
from ..local import VARIANTS, Config, LocalStage
from ..outcome import Check, Found, all_of, measured, none, none_lost
from ..stage import now_s

_SHARE = 0.3
_ROLL_LIMIT_S = 150.0
# The load must not notice a configuration that is refused.
_BROKEN_FOR_S = 3.0
# Requests of the new weights, or of the old ones again, and of nothing else.
_AFTERWARDS_S = 10.0
_UNETS = ("unet", "unet_distilled")
_FILE = "diffusion_pytorch_model.fp16.safetensors"


async def configuration_rolled(stage: LocalStage) -> Found:
    """Another `max_queue_s`, which replaces every replica, and back."""
    good = stage.service.config
    async with stage.load(_SHARE, seed=10) as load:
        await asyncio.sleep(2)
        there_s = await roll(stage, stage.service.changed(max_queue_s=5.0))
        back_s = await roll(stage, good)
        await asyncio.sleep(3)
    return Found(
        [none_lost(load.samples), measured(f"there after {there_s:.0f} s, back {back_s:.0f} s")],
        load.samples,
    )


async def weights_rolled(stage: LocalStage) -> Found:
    """Weights with other values, and back: each picture is of the old ones or of the new ones."""
    good, client = stage.service.config, stage.client
    folder = await asyncio.to_thread(_other_values, stage.service.scratch / "other")
    client.differing.clear()
    client.may_differ = True
    try:
        async with stage.load(_SHARE, seed=11) as there:
            await asyncio.sleep(2)
            there_s = await roll(stage, stage.service.changed(weights_dir=str(folder)))
            rolled_s = now_s()
            await asyncio.sleep(_AFTERWARDS_S)
        of_new = sum(one.fired_s > rolled_s for one in client.differing)
        after = there.count(lambda sample: there.fired_s(sample) > rolled_s)
        new = await client.drawn(stage.requests.bodies)
        async with stage.load(_SHARE, seed=12) as back:
            await asyncio.sleep(2)
            back_s = await roll(stage, good)
            returned_s = now_s()
            await asyncio.sleep(_AFTERWARDS_S)
    finally:
        client.may_differ = False
    strange = sum(
        difference(one.picture, new[key_of(one.asked)]) > TOLERANCE for one in client.differing
    )
    samples = [*there.samples, *back.samples]
    return Found(
        [
            none_lost(samples),
            none("pictures of neither", strange),
            all_of("of the new weights once they were there", of_new, after),
            none("of them later", sum(one.fired_s > returned_s for one in client.differing)),
            measured(f"there after {there_s:.0f} s, back {back_s:.0f} s"),
        ],
        samples,
    )


async def broken_weights(stage: LocalStage) -> Found:
    """A pickle, a truncated, a swapped, a changed file: refused by name; the old ones serve."""
    service, good = stage.service, stage.service.config
    canary = stage.service.scratch / "canary"
    unnamed, replaced, accepted = [], [], []
    kinds = ("a pickle", "a truncated file", "a swapped file", "changed bytes")
    async with stage.load(_SHARE, seed=13) as load:
        for kind in kinds:
            before = {name: service.pids(name) for name in VARIANTS}
            folder = stage.service.scratch / kind
            file = await asyncio.to_thread(_spoiled, kind, folder, canary)
            service.apply(service.changed(weights_dir=str(folder), verify_hashes=True))
            if not await stage.within(lambda: "FAILED" in str(_application(stage).status), 120):
                accepted.append(kind)
            app = _application(stage)
            messages = [app.message, *(one.message for one in app.deployments.values())]
            if not any(str(file) in message for message in messages):
                unnamed.append(f"{kind}: {' '.join(messages)[-200:]}")
            await asyncio.sleep(_BROKEN_FOR_S)
            await roll(stage, good)
            # New ones may have come and gone beside them.
            if any(before[name] - service.pids(name) for name in VARIANTS):
                replaced.append(kind)
        await asyncio.sleep(2)
    ran = canary.exists()
    return Found(
        [
            none_lost(load.samples),
            none("not refused", accepted),
            none("not named", unnamed),
            none("replicas replaced for", replaced),
            Check(f"the pickle {'ran' if ran else 'never ran'}", "never", not ran),
        ],
        load.samples,
    )


async def roll(stage: LocalStage, config: Config) -> float:
    """Deploy a configuration and wait until it is there; returns how long that took."""
    began_s = now_s()
    stage.service.apply(config)
    await asyncio.sleep(1)  # Until Serve has begun.
    await stage.wait_until(stage.service.ready, _ROLL_LIMIT_S, "the end of a rolling update")
    return now_s() - began_s


def _application(stage: LocalStage) -> Any:
    return stage.service.applications()["default"]


def _other_values(folder: Path) -> Path:
    """A family folder whose UNets draw otherwise; its manifest pins what is there."""
    shutil.copytree(WEIGHTS_DIR, folder)
    for name in _UNETS:
        path = folder / name / _FILE
        values = load_file(path)
        values["conv_out.bias"] = values["conv_out.bias"] + np.float16(0.1)
        save_file(values, path, metadata={"format": "pt"})
    (folder / MANIFEST_NAME).unlink()
    adopt = [sys.executable, "-m", "serve.weights", "adopt", str(folder), "--family", "miniature"]
    subprocess.run(adopt, check=True, capture_output=True)
    return folder


def _spoiled(kind: str, folder: Path, canary: Path) -> Path:
    """Make a spoilt family folder; returns the file that the refusal must name."""
    shutil.copytree(WEIGHTS_DIR, folder)
    path = folder / "unet_distilled" / _FILE
    content = path.read_bytes()
    if kind == "a pickle":
        path = folder / "unet" / "diffusion_pytorch_model.bin"
        # In pickle's first protocol: who loads it calls open(canary, "w").
        path.write_bytes(f"cbuiltins\nopen\n(V{canary}\nVw\ntR.".encode())
    elif kind == "a truncated file":
        path.write_bytes(content[:-1000])
    elif kind == "a swapped file":
        shutil.copy(folder / "unet" / _FILE, path)
    else:  # The same length and a valid header: only the hash tells.
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return path
