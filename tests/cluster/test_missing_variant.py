"""A variant whose replicas are gone: what its own requests get, and everybody else's."""

import concurrent.futures
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx
import pytest

from serve.keys import new_key
from tests.cluster.conftest import Fake, StartFake
from tests.machine import HANG_S, wait_for

KEY, LINE = new_key("alice")
BEARER = {"Authorization": f"Bearer {KEY}"}
MISSING, PLACES = "distilled", 8
# A replica that is let go on loading is there within a fraction of it.
MAX_QUEUE_S = 20
WAIT_S = 2


@pytest.fixture(scope="module")
def fake(start_fake: StartFake, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fake]:
    """Two variants; the replica of one has died, and its successor is still loading."""
    keys_file = tmp_path_factory.mktemp("keys") / "keys"
    keys_file.write_text(f"{LINE}\n")
    fake = start_fake(
        "missing", 0.01, variants="original,distilled", a1111=True, api_keys_file=keys_file,
        max_requests_per_key=PLACES, max_queue_s=MAX_QUEUE_S,
    )  # fmt: skip
    absent = fake.folder / f"{MISSING}.absent"
    absent.touch()
    os.kill(int((fake.folder / f"{MISSING}.pid").read_text()), signal.SIGKILL)
    wait_for(lambda: warm(fake)[MISSING] == 0)
    yield fake
    absent.unlink(missing_ok=True)


def warm(fake: Fake) -> dict[str, int]:
    counts: dict[str, int] = httpx.get(f"{fake.url}/readyz", timeout=HANG_S).json()["warm_replicas"]
    return counts


def ask(fake: Fake, **body: Any) -> httpx.Response:
    return fake.ask(BEARER, **body)


def txt2img(fake: Fake, timeout_s: float = HANG_S) -> httpx.Response:
    """Ask for the missing variant in AUTOMATIC1111's dialect, which has no deadlines."""
    body = {"prompt": "x", "override_settings": {"sd_model_checkpoint": MISSING}}
    url = f"{fake.url}/sdapi/v1/txt2img"
    return httpx.post(url, json=body, headers=BEARER, timeout=timeout_s)


def once_there_is_a_place(ask: Callable[[], httpx.Response]) -> httpx.Response:
    while (reply := ask()).status_code == 429:
        pass
    return reply


def test_a_keys_other_variants_lose_nothing_while_one_is_missing(fake: Fake) -> None:
    over = threading.Event()

    def draw_others() -> list[int]:
        statuses = []
        while not over.is_set() or len(statuses) < 5:
            statuses.append(ask(fake, model="original").status_code)
        return statuses

    # More at once for the missing variant than it has places; with the others' fewer than all have.
    with concurrent.futures.ThreadPoolExecutor(2 * PLACES - 2) as pool:
        others = pool.submit(draw_others)
        in_their_words = pool.submit(once_there_is_a_place, partial(txt2img, fake))
        asked = partial(ask, fake, model=MISSING, deadline_s=WAIT_S)
        missing = [one.result() for one in [pool.submit(asked) for _ in range(20)]]
        told = in_their_words.result()
        over.set()
        assert set(others.result()) == {200}
    refused = {(reply.status_code, reply.json()["error"]["code"]) for reply in missing}
    assert refused == {(503, "variant_unavailable"), (429, "too_many_requests")}
    assert (told.status_code, told.json()["error"]) == (503, "variant_unavailable")
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in (*missing, told))


def test_a_stream_for_it_says_so_in_an_event(fake: Fake) -> None:
    body = {"prompt": "x", "stream": True, "model": MISSING, "deadline_s": WAIT_S}
    url = f"{fake.url}/v1/images/generations"
    reply = httpx.post(url, json=body, headers=BEARER, timeout=HANG_S)
    (event,) = (line for line in reply.text.splitlines() if line.startswith("data: {"))
    assert json.loads(event.removeprefix("data: "))["error"]["code"] == "variant_unavailable"


def test_auto_passes_over_it(fake: Fake) -> None:
    assert {ask(fake, model="auto").json()["model"] for _ in range(3)} == {"original"}


def test_a_client_that_leaves_gives_its_place_back(fake: Fake) -> None:
    def leaves() -> bool:
        """Whether it had a place, and left it."""
        try:
            assert txt2img(fake, timeout_s=1).status_code == 429
        except httpx.ReadTimeout:
            return True
        return False

    with concurrent.futures.ThreadPoolExecutor(PLACES) as pool:
        list(pool.map(lambda _: wait_for(leaves), range(PLACES)))
    wait_for(lambda: ask(fake, model=MISSING, deadline_s=WAIT_S).status_code == 503)


def test_requests_that_wait_are_drawn_when_it_is_back(fake: Fake) -> None:
    with concurrent.futures.ThreadPoolExecutor(PLACES) as pool:
        asked = partial(ask, fake, model=MISSING)
        waiting = [pool.submit(once_there_is_a_place, asked) for _ in range(PLACES)]
        # All have their places: another gets none.
        wait_for(lambda: ask(fake, model=MISSING, deadline_s=0.1).status_code == 429)
        (fake.folder / f"{MISSING}.absent").unlink()
        assert [reply.result().status_code for reply in waiting] == [200] * PLACES
