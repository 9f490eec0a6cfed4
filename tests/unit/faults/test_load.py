"""The load in the background, and that a wrong picture is seen, over a service of no model."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from loadtests.samples import Sample
from tests.fake_service import FakeService, serving
from tests.faults.load import WRONG, Checked, Load, checked, difference, key_of, mixed
from tests.faults.scenarios.pods import was_under_way
from tests.machine import until

REQUESTS = mixed(("original", "distilled"), [{"num_inference_steps": steps} for steps in (4, 5)])


def play(service: FakeService, story: Callable[[Checked], Awaitable[None]]) -> None:
    async def connect(url: str) -> None:
        async with checked(url, REQUESTS, "dsd-mine") as client:
            await story(client)

    with serving(service):
        asyncio.run(connect(service.url))


def test_requests_are_few_the_same_each_time_and_of_every_kind() -> None:
    asked = [REQUESTS.body(index) for index in range(200)]
    assert asked == [REQUESTS.body(index) for index in range(200)]
    assert {key_of(body) for body in asked} == {key_of(body) for body in REQUESTS.bodies}


def test_a_picture_other_than_the_one_drawn_alone_fails_its_request() -> None:
    async def story(client: Checked) -> None:
        body = REQUESTS.bodies[0]
        assert (await client.draw(body)).verdict.outcome == "ok"
        # Another picture for the same request: what a mixed-up batch would give.
        client.alone[key_of(body)] = 255 - client.alone[key_of(body)]
        assert (await client.draw(body)).verdict.reason == WRONG
        client.may_differ = True
        assert (await client.draw(body)).verdict.outcome == "ok"
        assert [one.asked for one in client.differing] == [body]
        assert not any(client.under_way.values())

    service = FakeService()
    play(service, story)
    assert service.keys == {"Bearer dsd-mine"}


def test_pictures_of_another_size_differ_by_everything() -> None:
    assert difference(np.zeros((8, 8, 3), np.uint8), np.zeros((8, 16, 3), np.uint8)) == np.inf


def test_a_load_ends_when_all_that_it_sent_have_ended() -> None:
    service = FakeService()

    async def story(client: Checked) -> None:
        service.wrong_every = 3
        service.asked.clear()
        async with Load(client, REQUESTS, 50) as load:
            await until(lambda: len(service.asked) > 6)
            assert load.unfinished_before(asyncio.get_running_loop().time() + 60)
        assert len(load.samples) == len(service.asked)
        assert not load.unfinished_before(load.fired_s(load.samples[-1]))
        assert 0 < load.count(lambda sample: sample.outcome == "failed") < len(load.samples)
        assert all(load.asked(sample) in service.asked for sample in load.samples)

    play(service, story)


def test_a_kill_may_only_cost_what_was_under_way_or_sent_before_it_was_noticed() -> None:
    load = Load(Checked(None), REQUESTS, 1)  # type: ignore[arg-type]
    for fired_s, done_s, excused in [
        (99, 101, True), (101, 101, True), (103, 104, False), (98, 99, False),
    ]:  # fmt: skip
        sample = Sample(0, "mixed", 10, fired_s, fired_s, done_s)
        assert was_under_way(load, sample, killed_s=100.0) == excused
