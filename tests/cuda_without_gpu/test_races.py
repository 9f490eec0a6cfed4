"""The engine's two threads over the pipeline, on emulated streams, under torch's CUDA sanitizer.

Can't show: races inside a library or a graph, and what a real allocator does with its memory.
"""

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from torch.cuda._sanitizer import CUDASanitizerDispatchMode, CUDASanitizerErrors

from serve.catalogue import MINIATURE
from serve.engine.loop import Engine, Settings
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from tests.cuda_without_gpu.device import (
    LOCK,
    Device,
    DeviceTensor,
    Event,
    Races,
    Stream,
    cuda,
    current_stream,
    is_made_of_others,
    kept,
)
from tests.fakes import generation

__all__ = ["cuda"]

pytestmark = pytest.mark.thorough


class Sanitizer(CUDASanitizerDispatchMode):
    """torch's, for several threads; it counts what it has seen in each stream."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_made_of_others(func):
            with self:
                return func.decompose(*args, **(kwargs or {}))
        with LOCK:
            stream = current_stream().cuda_stream
            self.operations[stream] = self.operations.get(stream, 0) + 1
            return super().__torch_dispatch__(func, types, args, kwargs)


class Watched:
    """A pipeline, as a denoiser, whose calls run on the device under the sanitizer."""

    def __init__(self, pipe: Pipeline, device: Device) -> None:
        self._pipe = pipe
        self._device = device
        self.sanitizer = Sanitizer()
        self.races: list[Exception] = []
        self.threads: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._pipe, name)
        if name not in ("begin", "step", "decode", "preview"):
            return attribute

        def watched(*args: Any) -> Any:
            self.threads.add(threading.current_thread().name)
            try:
                with self._device, self.sanitizer:
                    return attribute(*args)
            except (Races, CUDASanitizerErrors) as race:
                self.races.append(race)
                raise

        return watched


@pytest.fixture(scope="module")
def pipe(cuda: Device) -> Iterator[Pipeline]:
    with cuda:
        variants = list(MINIATURE.variants.values())
        with kept():
            pipe = Pipeline.load(variants, WEIGHTS_DIR, "cuda", Optimisations(compile=False))
        yield pipe


async def drawn(pipe: Pipeline, cuda: Device, requests: int) -> Watched:
    """A mix of requests on an engine with four slots."""
    watched = Watched(pipe, cuda)
    engine = Engine(watched, Settings(cap=4))
    chance = random.Random(1)
    tickets = []
    for first_seed in range(requests):
        side = chance.choice((96, 96, 64))
        asked = generation(
            variant=chance.choice(list(MINIATURE.variants)),
            prompt=chance.choice(("a red star", "a blue vase")),
            seeds=tuple(range(first_seed, first_seed + chance.choice((1, 2, 3)))),
            width_px=side,
            height_px=side,
            num_inference_steps=chance.choice((2, 3, 5)),
            guidance_scale=chance.choice((1.0, 2.0)),
            scheduler=chance.choice(("pndm", "ddim", "dpm++", "euler")),
            previews=2,
        )
        tickets.append(engine.submit(asked))
    outcomes = await asyncio.gather(*(each.result() for each in tickets), return_exceptions=True)
    engine.close()
    await engine.wait_closed()
    faults = [each for each in outcomes if isinstance(each, Exception)]
    assert bool(faults) <= bool(watched.races), faults
    return watched


async def test_the_engines_two_threads_do_not_race_for_the_devices_memory(
    pipe: Pipeline, cuda: Device
) -> None:
    watched = await drawn(pipe, cuda, requests=5)
    assert watched.races == []
    assert watched.threads == {"denoise", "decode"}
    default, side = watched.sanitizer.operations.values()
    assert min(default, side) > 1000


@pytest.mark.parametrize(
    ("part", "method", "found"),
    [
        (Stream, "wait_event", CUDASanitizerErrors),
        (Event, "record", CUDASanitizerErrors),
        (DeviceTensor, "record_stream", Races),
        (Event, "synchronize", Races),
    ],
)
async def test_what_keeps_them_from_racing_is_missed_where_it_does_nothing(
    pipe: Pipeline,
    cuda: Device,
    monkeypatch: pytest.MonkeyPatch,
    part: type,
    method: str,
    found: type[Exception],
) -> None:
    monkeypatch.setattr(part, method, lambda self, *args: None)
    watched = await drawn(pipe, cuda, requests=2)
    assert found in {type(race) for race in watched.races}
