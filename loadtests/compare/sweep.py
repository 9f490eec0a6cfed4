"""Draws the frontier's settings, level by level; within one, settings in turn for each picture."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from .. import closedloop
from ..client import Client
from ..replies import first_picture
from ..rounds import rotated
from ..samples import Sample
from ..workload import Workload
from .frontier import DECIDING_PICTURES
from .record import Record, Run, Setting, Shot


@dataclass
class Sweep:
    """Fills `record.frontier`; what there is no time for is named in `record.left_out`.

    The first level begins with the base setting. A round is one picture in every
    setting of a level and in the base setting, so that what slows the device down for a while slows
    both; only whole rounds count. A setting that fails is drawn no further.

    Args:
        reference: the setting that the others' pictures are held to; of the first level.
        pictures: how many of each setting; of the first level as many as there is time for.
        needed_s: what a picture is expected to take.
        left_s: seconds until the end.
        done: called after each request.
    """

    client: Client
    workload: Workload
    record: Record
    levels: Sequence[Sequence[Setting]]
    reference: Setting
    pictures: int
    needed_s: Callable[[Setting], float]
    left_s: Callable[[], float]
    done: Callable[[Setting], object]
    _failed: set[Setting] = field(default_factory=set)

    async def carry_out(self) -> None:
        """The coarse level first, then the others as far as there is time."""
        await self._warm_up()
        wanted = self.pictures
        for number, level in enumerate(self.levels):
            # Fewer pictures of a finer level would say nothing.
            least = min(DECIDING_PICTURES, self.pictures) if number else 1
            drawn = await self._level(level, least)
            if drawn < wanted:
                steps = ", ".join(str(count) for count in sorted({s.steps for s in level}))
                self.record.left_out.append(
                    f"{wanted - drawn} of {wanted} pictures of the frontier's {steps} steps"
                )
            if not number:
                self.pictures = drawn

    async def _warm_up(self) -> None:
        """The first request with a scheduler pays for its set-up."""
        every = [setting for level in self.levels for setting in level]
        every.sort(key=lambda setting: -setting.steps)
        for fewest in {(setting.variant, setting.scheduler): setting for setting in every}.values():
            await self._draw(fewest, 0)

    async def _level(self, level: Sequence[Setting], least: int) -> int:
        """Draw picture by picture, until there are enough or time is up; returns how many.

        None are drawn where there seems to be no time for `least`.
        """
        settings = list(dict.fromkeys([*self.levels[0][:1], *level]))
        a_round_s = sum(map(self.needed_s, settings))
        if least * a_round_s > self.left_s():
            return 0
        for index in range(self.pictures):
            settings = [setting for setting in settings if setting not in self._failed]
            # Nothing can be held to what isn't drawn.
            if a_round_s > self.left_s() or self._failed & {self.levels[0][0], self.reference}:
                return index
            a_round_s = await self._round(settings, index)
        return self.pictures

    async def _round(self, settings: Sequence[Setting], index: int) -> float:
        """One picture in every setting; returns the seconds that it took."""
        now_s = asyncio.get_running_loop().time
        begun_s, drawn = now_s(), dict[Setting, tuple[float, bytes]]()
        for setting in rotated(settings, index):
            sample, content = await self._draw(setting, index)
            # Few steps or a scheduler that a variant refuses are no failure of the service.
            if sample.status != 400:
                run = Run("frontier", setting.variant, index, scheduler=setting.scheduler)
                run.samples.append(sample)
                run.duration_s = sample.done_s
                self.record.runs.append(run)
            if sample.outcome == "ok" and sample.device_s:
                drawn[setting] = sample.device_s, first_picture(content)
            else:
                why = sample.reason or "the reply has no timings"
                self.record.left_out.append(f"the frontier's {setting}: {why}")
                self._failed.add(setting)
            self.done(setting)
        base_s, _ = drawn.get(self.levels[0][0], (0.0, b""))
        for setting, (device_s, picture) in drawn.items():
            if base_s:
                shots = self.record.frontier.setdefault(setting, {})
                # A finer level draws the base setting again.
                shots.setdefault(index, Shot(device_s, base_s, picture))
        return now_s() - begun_s

    async def _draw(self, setting: Setting, index: int) -> tuple[Sample, bytes]:
        """Request `index`, the same in every setting but for the setting."""
        workload = replace(
            self.workload, num_inference_steps=(setting.steps,), scheduler=setting.scheduler
        )
        drawn: list[tuple[Sample, bytes]] = []
        await closedloop.run(
            self.client, 1, 1, workload, setting.variant, first=index,
            done=lambda sample, content: drawn.append((sample, content)),
        )  # fmt: skip
        return drawn[0]
