from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from serve.engine.slots import Limit, Policy, Slots


@dataclass(eq=False)
class FakeImage:
    group: str = "a"
    steps_left: int = 1
    prepared: bool = True


def test_an_unprepared_image_is_passed_and_keeps_its_place() -> None:
    slots: Slots[FakeImage] = Slots("step", cap=1)
    edit, first, second = FakeImage(prepared=False), FakeImage(), FakeImage()
    slots.add([edit])
    assert not slots.busy
    slots.add([first, second])
    assert slots.admit() == [first]
    slots.remove([first])
    edit.prepared = True
    assert slots.admit() == [edit]
    assert slots.waiting == (second,)


def test_images_are_admitted_in_order_of_arrival_into_free_slots() -> None:
    slots: Slots[FakeImage] = Slots("step", cap=3)
    first, second = [FakeImage(), FakeImage()], [FakeImage(), FakeImage()]
    slots.add(first)
    slots.add(second)
    assert slots.admit() == [*first, second[0]]
    assert slots.admit() == []
    slots.remove([first[1]])
    assert slots.admit() == [second[1]]
    assert slots.waiting == ()


def test_a_lowered_cap_splits_what_is_under_way_and_nobody_is_left_out() -> None:
    slots: Slots[FakeImage] = Slots("step", cap=4)
    four = [FakeImage() for _ in range(4)]
    slots.add(four)
    slots.admit()
    slots.cap = 2
    assert [slots.turn(), slots.turn(), slots.turn()] == [four[:2], four[2:], four[:2]]


def played(limit: Limit, room: int, since_s: int, until_s: int) -> list[tuple[int, int]]:
    """Call with as many images as the limit allows, every 10 s; returns its changes and when."""
    changes = []
    for now_s in range(since_s, until_s, 10):
        before = limit.value
        limit.raise_if_due(now_s)
        if limit.value > room:
            limit.lower(limit.value, now_s)
            changes.append((now_s, limit.value))
        elif limit.value != before:
            changes.append((now_s, limit.value))
    return changes


def test_a_limit_halves_without_memory_and_grows_by_one_a_minute_once_there_is_some() -> None:
    limit = Limit(8)
    assert played(limit, room=8, since_s=0, until_s=1000) == []
    assert played(limit, room=4, since_s=1000, until_s=1020) == [(1000, 4)]
    grown = [(1060, 5), (1120, 6), (1180, 7), (1240, 8)]
    assert played(limit, room=8, since_s=1020, until_s=9000) == grown
    # Long after the last trial, memory is lacking again.
    assert played(limit, room=4, since_s=9000, until_s=9010) == [(9000, 4)]


def test_a_trial_that_fails_costs_one_image_and_the_next_comes_later_each_time() -> None:
    limit = Limit(8)
    limit.lower(8, 0)
    failed = played(limit, room=4, since_s=10, until_s=5000)
    assert {value for _, value in failed} == {4}
    minutes = [now_s / 60 for now_s, _ in failed]
    assert minutes == [1, 3, 7, 15, 31, 47, 63, 79]
    # A call of fewer images fails for another reason than the trial.
    limit.raise_if_due(5700)
    limit.lower(3, 5710)
    assert limit.value == 1


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abcd"), st.integers(1, 6)), max_size=30),
    st.integers(1, 6),
    st.sampled_from(["step", "batch"]),
)
def test_no_image_waits_for_more_than_one_call_of_each_other_group(
    arrivals: list[tuple[int, str, int]], cap: int, policy: Policy
) -> None:
    slots: Slots[FakeImage] = Slots(policy, cap)
    to_come = [(delay, FakeImage(group, steps)) for delay, group, steps in arrivals]
    waited: dict[FakeImage, list[str]] = {}
    done = 0
    while done < len(arrivals):
        if to_come and (to_come[0][0] <= 0 or not (slots.waiting or slots.under_way)):
            slots.add([to_come.pop(0)[1]])
            continue
        to_come = [(delay - 1, image) for delay, image in to_come]
        for image in slots.admit():
            waited[image] = []
        assert len(slots.under_way) <= cap
        called = slots.turn()
        assert called
        assert len(called) <= cap
        assert len({image.group for image in called}) == 1
        for image in slots.under_way:
            if image in called:
                waited[image] = []
                image.steps_left -= 1
            else:
                waited[image].append(called[0].group)
                others = waited[image]
                assert image.group not in others
                assert len(others) == len(set(others))
        finished = [image for image in called if image.steps_left == 0]
        slots.remove(finished)
        done += len(finished)
    assert not slots.under_way
    assert not slots.waiting
