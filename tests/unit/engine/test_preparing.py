"""Edits are prepared beside the steps of others, before they get a slot."""

import asyncio
import time

import pytest

from serve.engine.forecast import Pace
from serve.errors import DeadlineExceeded, EngineClosed, InvalidRequest, OutOfDeviceMemory
from serve.generation import Generation, Source
from tests.fakes import FakeDenoiser, generation
from tests.machine import until
from tests.unit.engine.test_loop import play


def edit(prompt: str = "a red star") -> Generation:
    return generation(prompt=prompt, source=Source(b"", None, 1.0))


@play()
async def test_a_job_is_prepared_once_on_the_thread_that_decodes(engine, denoiser):
    await engine.submit(edit()).result()
    await engine.submit(generation()).result()
    assert denoiser.prepared == 1
    assert denoiser.threads["prepare"] == denoiser.threads["decode"] == {"decode"}


@play(cap=1)
async def test_others_are_drawn_while_a_job_is_prepared(engine, denoiser):
    denoiser.prepare_gate.clear()
    denoiser.decode_gate.set()
    first = engine.submit(edit())
    beside = engine.submit(generation(num_inference_steps=3))
    await until(lambda: denoiser.steps == 3)
    assert not first.ended
    denoiser.prepare_gate.set()
    await first.result()
    await beside.result()


@play()
async def test_a_job_that_cannot_be_prepared_fails_alone(engine, denoiser):
    poisoned, sound = engine.submit(edit("poisoned picture")), engine.submit(edit())
    with pytest.raises(ValueError, match="a bad picture"):
        await poisoned.result()
    assert (await sound.result()).images
    assert denoiser.begun == 1


@play(no_room_to_prepare=1)
async def test_a_job_is_prepared_again_once_memory_was_freed(engine, denoiser):
    assert (await engine.submit(edit()).result()).images
    assert denoiser.memory_freed == 1


@play(no_room_to_prepare=2)
async def test_a_job_that_twice_has_no_memory_fails_and_counts_as_a_fault(engine):
    with pytest.raises(OutOfDeviceMemory):
        await engine.submit(edit()).result()
    assert engine.faults_in_a_row == 1
    assert (await engine.submit(edit()).result()).images
    assert engine.faults_in_a_row == 0


@play()
async def test_nobody_prepares_what_was_cancelled_or_is_late(engine, denoiser):
    denoiser.prepare_gate.clear()
    blocking = engine.submit(edit())
    await until(lambda: engine.call_age_s > 0)
    cancelled = engine.submit(edit())
    late = engine.submit(edit(), time.perf_counter() + 0.05)
    cancelled.cancel()
    await asyncio.sleep(0.06)
    denoiser.prepare_gate.set()
    with pytest.raises(DeadlineExceeded):
        await late.result()
    await blocking.result()
    assert denoiser.prepared == 1


@play(no_room_to_prepare=2)
async def test_jobs_that_end_unprepared_leave_nothing_behind(engine, denoiser):
    with pytest.raises(OutOfDeviceMemory):
        await engine.submit(edit()).result()
    with pytest.raises(ValueError, match="a bad picture"):
        await engine.submit(edit("poisoned picture")).result()
    denoiser.prepare_gate.clear()
    cancelled = engine.submit(edit())
    await until(lambda: engine.call_age_s > 0)
    cancelled.cancel()
    await until(lambda: engine.occupied == (0, 0))
    denoiser.prepare_gate.set()
    assert engine.ahead_s == 0
    await engine.submit(edit()).result()
    assert denoiser.begun == 1


def pace() -> Pace:
    """0.1 s a step, and 7 s to prepare an edit."""
    measured = Pace({1: 0.1})
    measured.saw_prepare(FakeDenoiser().plan(edit()).preparation, 7.0)
    return measured


@play(pace=pace(), cap=1)
async def test_what_waits_to_be_prepared_is_work_ahead(engine, denoiser):
    assert engine.ahead_s == 0
    assert engine.work_s(edit()) == pytest.approx(0.5 + 7.0)
    denoiser.prepare_gate.clear()
    tickets = [engine.submit(edit()) for _ in range(2)]
    assert [ticket.expected_s for ticket in tickets] == pytest.approx([7.5, 14.5])
    assert engine.ahead_s == pytest.approx(14)
    assert engine.forecast(edit()).start_s == pytest.approx(21)
    assert engine.forecast(generation()).finish_s == pytest.approx(1.5)
    denoiser.prepare_gate.set()
    await asyncio.gather(*(ticket.result() for ticket in tickets))
    assert engine.ahead_s < 7


@play(pace=pace())
async def test_a_deadline_allows_for_preparing(engine):
    deadline = time.perf_counter() + 7
    engine.require_feasible(generation(), deadline)
    with pytest.raises(InvalidRequest):
        engine.require_feasible(edit(), deadline)


@play()
async def test_a_job_that_is_being_prepared_ends_with_the_engine(engine, denoiser):
    denoiser.prepare_gate.clear()
    tickets = [engine.submit(edit()) for _ in range(2)]
    await until(lambda: engine.call_age_s > 0)
    engine.close()
    for ticket in tickets:
        with pytest.raises(EngineClosed):
            await ticket.result()
    denoiser.prepare_gate.set()
    await engine.wait_closed()
    assert (denoiser.prepared, denoiser.begun) == (1, 0)
