from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from serve.engine.sweep import sweep, sweep_denoiser
from serve.errors import OutOfDeviceMemory
from tests.fakes import FakeDenoiser, FakeTrajectory, generation


def test_the_sweep_stops_where_two_doublings_bring_under_a_twentieth_each() -> None:
    # 7.3 ms and 6.45 ms an image: 72.7, 99.0, 120.8, 135.8 and 144.9 images a second.
    best, seconds = sweep(lambda images: 7.3e-3 + 6.45e-3 * images)
    assert best == 16
    assert list(seconds) == [1, 2, 4, 8, 16]
    # 1 ms and 10 ms an image: 90.9, 95.2 and 97.6.
    best, seconds = sweep(lambda images: 1e-3 + 10e-3 * images)
    assert best == 1
    assert list(seconds) == [1, 2, 4]
    # One image fills the device.
    assert sweep(lambda images: 69e-3 * images)[0] == 1


def test_the_sweep_goes_on_past_a_doubling_that_gains_nothing_by_itself() -> None:
    measured_s = {1: 0.028, 2: 0.040, 4: 0.080, 8: 0.126, 16: 0.246}
    assert sweep(measured_s.__getitem__) == (8, measured_s)


def test_the_sweep_ends_where_memory_does() -> None:
    def call_s(images: int) -> float:
        if images > 4:
            raise OutOfDeviceMemory("no room")
        return 1.0

    assert sweep(call_s) == (4, {1: 1.0, 2: 1.0, 4: 1.0})


def test_no_room_for_one_image_is_an_error() -> None:
    def call_s(_: int) -> float:
        raise OutOfDeviceMemory("no room")

    with pytest.raises(OutOfDeviceMemory):
        sweep(call_s)


def test_steps_are_timed_by_the_denoisers_own_clock() -> None:
    class Disturbed(FakeDenoiser):
        """Other work takes the device in some calls; its clock tells its own time only."""

        def clock_s(self) -> float:
            return 0.010 * self.steps + 0.005 * sum(map(len, self.calls))

        def step(self, trajectories: list[FakeTrajectory]) -> None:
            self.step_s = 0.02 if len(trajectories) in (2, 8) else 0.0
            super().step(trajectories)

    @contextmanager
    def measuring() -> Iterator[None]:
        yield
        locked.append(denoiser.steps)

    locked: list[int] = []
    denoiser = Disturbed(lock=measuring())
    best, seconds = sweep_denoiser(
        denoiser,
        lambda images, steps: generation(seeds=tuple(range(images)), num_inference_steps=steps),
    )
    assert best == 16
    assert locked == [denoiser.steps]  # All of it.
    assert seconds == pytest.approx({n: 0.010 + 0.005 * n for n in (1, 2, 4, 8, 16)})
