import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.engine.forecast import Pace, Work, forecast
from serve.engine.slots import Slots
from serve.generation import Preparation
from tests.unit.engine.test_slots import FakeImage


def test_an_unmeasured_number_of_images_lies_between_its_neighbours() -> None:
    pace = Pace({1: 1.0, 4: 2.5})
    assert [pace.call_s(images) for images in (1, 2, 3, 4)] == [1.0, 1.5, 2.0, 2.5]
    assert pace.call_s(8) == 5.0


def test_an_unmeasured_cost_is_scaled_and_a_measured_one_is_not() -> None:
    pace = Pace({1: 1.0})
    assert pace.call_s(1, 0.5) == 0.5
    pace.saw_call(1, 0.5, 0.9)
    assert pace.call_s(1, 0.5) == 0.9
    assert pace.call_s(1) == 1.0


def test_the_pace_follows_a_device_that_slows_down() -> None:
    pace = Pace({1: 1.0})
    for _ in range(30):
        pace.saw_call(1, 1.0, 2.0)
    assert pace.call_s(1) == pytest.approx(2.0, rel=0.01)
    assert pace.fastest_call_s() == 1.0


def test_the_lower_bound_is_never_above_what_was_seen() -> None:
    pace = Pace({1: 1.0, 2: 1.5})
    pace.saw_call(1, 1.0, 0.8)
    assert pace.fastest_call_s() == 0.8
    assert pace.fastest_call_s(0.25) == 0.2
    assert pace.fastest_call_s(4.0) == 0.8


def test_an_unmeasured_preparation_is_scaled_from_the_nearest_of_its_kind() -> None:
    pace = Pace()
    pace.saw_prepare(Preparation("kl", 1.0), 0.5)
    pace.saw_prepare(Preparation("kl", 4.0), 3.0)
    costs = (0.5, 1.0, 2.0, 4.0, 8.0)
    taken_s = [pace.prepare_s(Preparation("kl", cost)) for cost in costs]
    assert taken_s == [0.25, 0.5, 1.0, 3.0, 6.0]
    assert pace.prepare_s(Preparation("tiny", 1.0)) == 0
    assert pace.prepare_s(None) == 0


def test_without_measurements_everything_takes_no_time() -> None:
    assert forecast(Pace(), 4, [Work(1, 50, 1.0)], Work(1, 50, 1.0)).finish_s == 0


def test_work_ahead_is_served_first() -> None:
    pace = Pace({1: 1.0, 2: 1.5})
    job = Work(1, 10, 1.0)
    assert forecast(pace, 1, [], job).finish_s == 10
    assert forecast(pace, 1, [Work(2, 5, 1.0)], job).finish_s == 20
    # Two slots: ten shared calls where both have steps left.
    assert forecast(pace, 2, [Work(1, 4, 1.0)], job).finish_s == 4 * 1.5 + 6 * 1.0


def test_a_job_begins_when_a_slot_is_free() -> None:
    pace = Pace({1: 1.0, 2: 1.5})
    job = Work(1, 10, 1.0)
    assert forecast(pace, 2, [Work(1, 4, 1.0)], job).start_s == 0
    assert forecast(pace, 2, [Work(2, 4, 1.0)], job).start_s == 6
    # No job at all: when everything ahead is done.
    assert forecast(pace, 2, [Work(3, 4, 1.0)], Work(0, 1, 1.0)).finish_s == 10


def test_jobs_are_prepared_in_order_beside_the_steps() -> None:
    pace = Pace({1: 1.0})
    ahead = [Work(1, 2, 1.0, prepare_s=3.0), Work(1, 2, 1.0, prepare_s=4.0)]
    prepared = forecast(pace, 1, ahead, Work(1, 5, 1.0, prepare_s=2.0))
    assert (prepared.start_s, prepared.finish_s) == (9, 14)
    # Ready before the steps ahead are done.
    assert forecast(pace, 1, [Work(1, 10, 1.0)], Work(1, 5, 1.0, prepare_s=2.0)).start_s == 10
    # What needs no preparing waits for no other's.
    assert forecast(pace, 1, ahead, Work(1, 5, 1.0)).start_s == 4
    assert forecast(pace, 1, ahead, Work(0, 1, 1.0)).finish_s == 7


def test_decoding_comes_on_top() -> None:
    pace = Pace({1: 1.0})
    pace.saw_decode(2, 0.5)
    assert forecast(pace, 1, [], Work(1, 2, 1.0)).finish_s == 2.25


@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 9)), min_size=1, max_size=8),
    st.integers(1, 5),
)
def test_a_forecast_is_what_the_slots_do(works: list[tuple[int, int]], cap: int) -> None:
    pace = Pace({1: 1.0, 2: 1.3, 8: 3.0})
    slots: Slots[FakeImage] = Slots("step", cap)
    for images, steps in works:
        slots.add(last := [FakeImage("a", steps) for _ in range(images)])
    elapsed_s = 0.0
    while any(image.steps_left for image in last):
        slots.admit()
        called = slots.turn()
        elapsed_s += pace.call_s(len(called))
        for image in called:
            image.steps_left -= 1
        slots.remove([image for image in called if image.steps_left == 0])
    *ahead, job = [Work(images, steps, 1.0) for images, steps in works]
    assert forecast(pace, cap, ahead, job).finish_s == pytest.approx(elapsed_s)
