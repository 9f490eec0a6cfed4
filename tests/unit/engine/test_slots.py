from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from serve.engine.slots import Policy, Slots


@dataclass(eq=False)
class FakeImage:
    group: str = "a"
    steps_left: int = 1


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
