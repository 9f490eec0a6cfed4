"""The load in the background, against a service that answers at once."""

import time
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from deploy.rehearsal.load import Load
from tests.fake_service import FakeService, serving
from tests.machine import HANG_S, wait_for


@dataclass
class CountingService(FakeService):
    peers: list[Any] = field(default_factory=list)

    async def generate(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        self.peers.append(request.transport.get_extra_info("peername"))
        return await super().generate(request)


def test_a_span_of_the_clock_holds_exactly_the_requests_scheduled_in_it() -> None:
    with serving(CountingService()) as service:
        load = Load(service.url, ["original", "distilled"], 20, (1,))
        load.start()
        time.sleep(0.5)
        began_s = time.monotonic()
        time.sleep(1.5)
        asked = load.between(began_s, time.monotonic())
        load.stop()
        load.join(HANG_S)
    assert not load.is_alive()
    assert 10 < len(asked) < len(service.asked)
    assert {one.sample.variant for one in asked} == {"original", "distilled"}
    for one in asked:
        assert not one.lost
        assert began_s - 0.1 <= one.sent_s <= one.done_s


def test_each_request_has_a_connection_of_its_own() -> None:
    with serving(CountingService()) as service:
        load = Load(service.url, ["original"], 20, (1,))
        load.start()
        wait_for(lambda: len(service.peers) > 5)
        load.stop()
        load.join(HANG_S)
    assert len(set(service.peers)) == len(service.peers)


def test_a_lost_request_is_asked_again_with_the_same_seed() -> None:
    with serving(CountingService(wrong_every=3)) as service:
        load = Load(service.url, ["original"], 20, (1,))
        load.start()
        began_s = time.monotonic()
        wait_for(lambda: len(service.asked) > 6)
        asked = load.between(began_s, time.monotonic())
        load.stop()
        load.join(HANG_S)
        lost = [one for one in asked if one.lost]
        assert lost
        service.wrong_every = 0
        before = list(service.asked)
        again = load.ask_again(lost)
    assert not any(one.lost for one in again)
    for body in service.asked[len(before) :]:
        assert body in before
