import asyncio
import math

import numpy as np
import pytest

from serve.generation import Drawing, Generation, PictureFormat, Timings
from serve.replica.encoding import encode
from serve.routing.shadow import Shadow, ShadowPolicy, likeness_db
from tests.fakes import generation
from tests.machine import HANG_S

PNG = PictureFormat("png", 90)


def drawing(grey: int, denoise_s: float = 1.0) -> Drawing:
    picture = encode(np.full((8, 8, 3), grey, np.uint8), PNG)
    return Drawing((picture,), Timings(0.0, denoise_s, 0.0, 0.0), ())


class Counts:
    def __init__(self) -> None:
        self.pairs: list[tuple[str, str, float, float]] = []
        self.dropped = 0

    def shadowed(self, pinned: str, shadow: str, psnr_db: float, time_ratio: float) -> None:
        self.pairs.append((pinned, shadow, psnr_db, time_ratio))

    def shadow_dropped(self, pinned: str, shadow: str) -> None:
        self.dropped += 1


def play(share: float, requests: list[Generation], answer: object) -> tuple[Counts, int]:
    counts, asked = Counts(), []

    async def draw(job: Generation) -> Drawing | None:
        asked.append(job)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    async def scenario() -> None:
        shadow = Shadow(ShadowPolicy(variant="distilled", share=share), draw, counts)
        for index, job in enumerate(requests):
            shadow.consider(f"request-{index}", job, drawing(100))
            async with asyncio.timeout(HANG_S):
                while shadow._under_way:
                    await asyncio.sleep(0.001)

    asyncio.run(scenario())
    assert all(job.variant == "distilled" and job.seeds == (7,) for job in asked)
    return counts, len(asked)


def test_a_pair_is_compared_by_likeness_and_time() -> None:
    counts, _ = play(1.0, [generation(variant="original")], drawing(101, denoise_s=0.5))
    ((pinned, shadow, psnr_db, ratio),) = counts.pairs
    assert (pinned, shadow, ratio) == ("original", "distilled", 0.5)
    assert psnr_db == pytest.approx(10 * math.log10(255**2))


def test_its_own_variant_is_not_repeated() -> None:
    assert play(1.0, [generation(variant="distilled")], drawing(1))[1] == 0


def test_a_share_of_the_requests_is_repeated() -> None:
    requests = [generation(variant="original")] * 200
    assert 20 < play(0.2, requests, drawing(1))[1] < 65


@pytest.mark.parametrize("answer", [None, RuntimeError("gone")], ids=["no-room", "an-error"])
def test_what_does_not_come_is_counted_and_forgotten(answer: object) -> None:
    counts, _ = play(1.0, [generation(variant="original")], answer)
    assert (counts.dropped, counts.pairs) == (1, [])


def test_pictures_that_were_flagged_are_left_out_of_the_likeness() -> None:
    dark, bright = drawing(5).pictures[0], drawing(200).pictures[0]
    times = Timings(0.0, 1.0, 0.0, 0.0)
    one, other = Drawing((dark, None), times, ()), Drawing((dark, bright), times, ())
    assert likeness_db(one, other) == math.inf
    counts, _ = play(1.0, [generation(variant="original")], Drawing((None,), times, ()))
    assert (counts.dropped, counts.pairs) == (1, [])


def test_equal_pictures_are_infinitely_alike() -> None:
    assert likeness_db(drawing(5), drawing(5)) == math.inf
