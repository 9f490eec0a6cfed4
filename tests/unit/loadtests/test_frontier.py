"""The frontier's arithmetic: levels, the Pareto line, the recommendation, and what is measured."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loadtests.compare.design import Design
from loadtests.compare.endpoint import Endpoint
from loadtests.compare.frontier import (
    Frontier,
    Measure,
    Point,
    conclude_frontier,
    find_frontier,
    levels,
    reference_setting,
    with_dominators,
)
from loadtests.compare.quality import ClipScores, cmmd, similarity
from loadtests.compare.record import Record, Setting, Shot
from loadtests.compare.sweep import Sweep
from loadtests.compare.verdict import of_frontier
from loadtests.rounds import Spread
from loadtests.workload import Workload
from serve.miniature.training.scenes import Scene, Thing, draw
from tests import virtual_time
from tests.fake_service import DirectClient, FakeService

PROMPT = "a red car on a blue background"
BASE, BEST = Setting("big", 25, "pndm"), Setting("big", 50, "pndm")
CHEAP = Setting("small", 4, "lcm")


def an_endpoint(**fields: Any) -> Endpoint:
    """Two variants, neither of which the project has; the second is meant for few steps."""
    models = {
        name: {
            "defaults": {"num_inference_steps": steps, "scheduler": scheduler},
            "bounds": {"num_inference_steps": (1, most)},
            "schedulers": schedulers,
            "random_weights": fields.get("random_weights", False),
        }
        for name, steps, scheduler, most, schedulers in (
            ("big", 25, "pndm", 150, ["pndm", "dpm++", "euler"]),
            ("small", 4, "lcm", 8, ["lcm"]),
        )
    }
    return Endpoint("http://x", "miniature", models, {})


DESIGN = Design(
    ("big", "small"), Workload(prompts=(PROMPT,)), frontier_steps=(50, 4, 8, 12, 16, 20, 25)
)


def point(name: str, cost: float, quality: float | None, ssim: float = 0.5) -> Point:
    """Of 24 pictures, without noise, held to a reference of 1."""
    blank = np.zeros((8, 8, 3), np.uint8)
    return Point(
        Setting(name, 4, "dpm++"),
        Spread(cost, cost, cost, 24),
        cost,
        replace(similarity([blank], [blank]), ssim=ssim),
        quality=quality,
        shortfall=1 - (quality or 0),
    )


def test_the_reference_has_no_more_steps_than_its_variant_allows() -> None:
    design = replace(DESIGN, variants=("small", "big"), most_steps={"small": 8, "big": 150})
    (first, *_), *_ = levels(design, an_endpoint())
    assert first == Setting("small", 4, "lcm")
    assert reference_setting(design, first) == Setting("small", 8, "lcm")
    drawn = [setting for level in levels(design, an_endpoint()) for setting in level]
    assert all(setting.steps <= 8 for setting in drawn if setting.variant == "small")


def test_the_coarse_grid_comes_first_and_every_setting_is_drawn_once() -> None:
    coarse, finer, above = levels(DESIGN, an_endpoint())
    assert coarse[:2] == [BASE, BEST]
    assert {setting.steps for setting in coarse[2:]} == {4, 12, 20}
    assert {setting.steps for setting in finer} == {8, 16, 25}
    assert {setting.steps for setting in above} == {50}
    every = [*coarse, *finer, *above]
    # What a variant doesn't allow is not drawn.
    assert len(every) == len(set(every)) == 7 * 2 + 2
    small = [(s.steps, s.scheduler) for s in every if s.variant == "small"]
    assert small == [(4, "lcm"), (8, "lcm")]
    assert levels(replace(DESIGN, frontier_steps=()), an_endpoint()) == []
    only = replace(DESIGN, frontier_steps=(10,), frontier_schedulers=("euler",))
    assert levels(only, an_endpoint()) == [[BASE, Setting("big", 10, "euler")]]


@pytest.mark.parametrize(
    ("points", "line"),
    [
        pytest.param([point("a", 1, 0.5), point("b", 2, 0.9)], "ab", id="each-better"),
        pytest.param([point("a", 1, 0.9), point("b", 2, 0.9)], "a", id="dearer-and-no-better"),
        pytest.param([point("a", 1, 0.8), point("b", 1.04, 0.9)], "b", id="same-cost-better"),
        pytest.param([point("a", 1, 0.8), point("b", 1.06, 0.9)], "ab", id="dearer-and-better"),
        pytest.param(
            [point("a", 1, 0.9, ssim=0.7), point("b", 1.04, 0.9, ssim=0.8)], "b", id="more-similar"
        ),
        pytest.param([point("a", 1, None), point("b", 2, 0.1)], "b", id="not-judged"),
        pytest.param([], "", id="nothing"),
    ],
)
def test_what_costs_as_much_and_is_no_better_is_below_the_pareto_line(
    points: list[Point], line: str
) -> None:
    found = with_dominators(points)
    assert [p.setting for p in found] == [p.setting for p in points]
    on_it = [p.setting.variant for p in found if p.dominated_by is None and p.quality is not None]
    assert "".join(on_it) == line
    assert {p.dominated_by.variant for p in found if p.dominated_by} <= set(line)


def concluded(*points: Point, measure: Measure = "share judged right") -> Frontier:
    base = replace(point("base", 1, 1.0), setting=BASE)
    best = replace(point("best", 2, 1.0), setting=BEST)
    return conclude_frontier(BASE, BEST, [base, best, *points], measure)


def test_the_cheapest_within_tolerance_and_noise_is_recommended() -> None:
    wrong = point("wrong", 0.1, 0.85)
    unsure = replace(point("unsure", 0.2, 0.95), noise=0.06)
    sure = replace(point("sure", 0.3, 0.96), noise=0.04)
    found = concluded(sure, wrong, unsure)
    assert found.recommended == sure.setting
    (words,) = of_frontier(found)
    assert words.startswith("`sure` with 4 steps of dpm++ costs 0.30 of `big` with 25 steps")
    assert "within 0.1 of the reference, `big` with 50 steps of pndm" in words
    assert "(share judged right 0.96 against 1.00; SSIM 0.50; 24 pictures)" in words


def test_what_the_default_itself_lacks_is_tolerated() -> None:
    base = replace(point("base", 1, 0.7), setting=BASE)
    best = replace(point("best", 2, 1.0), setting=BEST)
    cheap = point("cheap", 0.3, 0.75)
    found = conclude_frontier(BASE, BEST, [base, best, cheap], "SSIM")
    assert found.tolerance == pytest.approx(0.3)
    assert found.recommended == cheap.setting


def test_where_nothing_on_the_line_fits_the_default_is_recommended() -> None:
    found = concluded(replace(point("unsure", 0.2, 1.0), noise=0.3))
    assert found.point(BASE).dominated_by is not None
    assert found.recommended == BASE


def test_too_few_pictures_recommend_nothing() -> None:
    few = Spread(1, 1, 1, 7)
    base, best = (replace(point("x", 1, 1.0), setting=s, device_s=few) for s in (BASE, BEST))
    found = conclude_frontier(BASE, BEST, [base, best], "SSIM")
    assert found.recommended is None
    assert of_frontier(found) == ["The frontier recommends nothing: it takes 8 pictures a setting."]


def test_a_reference_that_is_wrong_itself_recommends_nothing() -> None:
    base, best = (replace(point("x", 1, 0.05), setting=s, shortfall=0.0) for s in (BASE, BEST))
    blank = replace(point("blank", 0.1, 0.0), shortfall=0.05)
    found = conclude_frontier(BASE, BEST, [base, best, blank], "share judged right")
    assert found.recommended is None
    (words,) = of_frontier(found)
    assert words.endswith(
        "reference, `big` with 50 steps of pndm, are too poor to measure others by."
    )


def a_scene(colour: str, seed: int) -> NDArray[np.uint8]:
    return draw(Scene(Thing("car", colour), "blue", seed))


def shots(
    pictures: Sequence[NDArray[np.uint8]], device_s: float, base_s: float = 2.0
) -> dict[int, Shot]:
    found = {}
    for index, pixels in enumerate(pictures):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        found[index] = Shot(device_s, base_s, buffer.getvalue())
    return found


def a_record() -> Record:
    """The cheap setting draws two cars of ten in another colour, on a device three times slower."""
    right = [a_scene("red", seed) for seed in range(10)]
    wrong = [a_scene("yellow", seed) for seed in range(2)]
    record = Record()
    record.frontier[BASE] = shots(right, 2.0)
    record.frontier[BEST] = shots(right, 4.0)
    record.frontier[CHEAP] = shots([*wrong, *right[2:]], 1.5, base_s=6.0)
    return record


def test_cost_is_taken_within_rounds_and_quality_by_the_judges() -> None:
    record = a_record()
    # What time cut short is held to the reference's same pictures; with too few it is left out.
    record.frontier[replace(CHEAP, steps=8)] = dict([*record.frontier[CHEAP].items()][:9])
    record.frontier[replace(CHEAP, steps=12)] = dict([*record.frontier[CHEAP].items()][:7])
    found = find_frontier(DESIGN, an_endpoint(), record, {})
    assert found is not None
    assert found.measure == "share judged right"
    assert len(found.points) == 4
    cheap, base = found.point(CHEAP), found.point(BASE)
    assert (cheap.cost, base.cost, found.point(BEST).cost) == (0.25, 1, 2)
    assert (cheap.judged, cheap.quality, base.judged) == (0.8, 0.8, 1.0)
    assert cheap.noise == pytest.approx(np.std([1] * 2 + [0] * 8, ddof=1) / np.sqrt(10))
    assert (base.noise, found.point(BEST).noise) == (0.1, 0.0)
    assert cheap.similar is not None
    assert cheap.similar.ssim < 1
    assert found.point(replace(CHEAP, steps=8)).shortfall == pytest.approx(2 / 9)
    assert found.recommended == BASE


def test_clip_scores_are_the_measure_where_no_judges_are() -> None:
    def scores(cosine: float, seed: int) -> ClipScores:
        drawn = np.random.default_rng(seed).standard_normal((10, 4), np.float32)
        return ClipScores((cosine,) * 10, drawn)

    endpoint = replace(an_endpoint(), family="sd-v1")
    # The best's are missing for the base: it was cut short.
    clip = {BEST: scores(0.30, 0), CHEAP: scores(0.31, 1)}
    found = find_frontier(DESIGN, endpoint, a_record(), clip)
    assert found is not None
    assert found.measure == "CLIP score"
    assert found.point(CHEAP).quality == pytest.approx(0.31)
    assert (found.point(CHEAP).cmmd or 0) > (found.point(BEST).cmmd or 0) == 0
    assert found.point(BASE).quality is None
    assert "not known" in of_frontier(replace(found, measure=None))[0]


def test_of_random_weights_only_the_time_is_known() -> None:
    found = find_frontier(DESIGN, an_endpoint(random_weights=True), a_record(), {})
    assert found is not None
    assert (found.measure, found.recommended) == (None, None)
    assert found.point(CHEAP).similar is None
    assert find_frontier(DESIGN, an_endpoint(), Record(), {}) is None


def test_the_discrepancy_of_equal_sets_is_none_and_that_of_others_is_as_defined() -> None:
    ours, theirs = np.eye(2, dtype=np.float32), np.array([[3, 0], [5, 0]], np.float32)
    assert cmmd(ours, ours[::-1]) == pytest.approx(0, abs=1e-9)
    # Of unit vectors, two of which are at a right angle: a squared distance of 2.
    apart = np.exp(-2 / (2 * 10**2))
    within, between = (1 + apart) / 2, (1 + apart) / 2
    assert cmmd(ours, theirs) == pytest.approx(1000 * (within + 1 - 2 * between), rel=1e-4)


def swept(
    service: FakeService,
    left_s: float,
    record: Record | None = None,
    cancelled_s: float = 1e9,
    best: Setting = BEST,
) -> Record:
    """Three pictures of each setting of two levels; a picture takes a second with 25 steps."""
    found = record or Record()
    grid = [[*dict.fromkeys([BASE, best]), CHEAP], [replace(CHEAP, steps=2)]]

    async def carry_out() -> None:
        now_s = asyncio.get_running_loop().time
        await Sweep(
            DirectClient(service), DESIGN.workload, found, grid, best, 3,
            needed_s=lambda setting: setting.steps / 25, left_s=lambda: left_s - now_s(),
            done=lambda setting: None,
        ).carry_out()  # fmt: skip

    virtual_time.run(asyncio.wait_for(carry_out(), cancelled_s))
    return found


def test_an_interruption_leaves_whole_rounds() -> None:
    record = Record()
    # The warm-up, two rounds, and a part of the third, which doesn't count.
    with pytest.raises(TimeoutError):
        swept(a_service(), 60, record, cancelled_s=8.5)
    assert {len(drawn) for drawn in record.frontier.values()} == {2}
    assert len(record.runs) > 6


def a_service(**fields: Any) -> FakeService:
    return FakeService(latency_s=0.0, serial_s={"big": 1.0, "small": 1.0}, **fields)


def test_a_sweep_draws_the_same_requests_in_every_setting_in_turn() -> None:
    service = a_service()
    record = swept(service, 60)
    assert record.left_out == []
    assert {len(drawn) for drawn in record.frontier.values()} == {3}
    assert record.frontier[CHEAP][0].device_s == pytest.approx(4 / 25)
    assert record.frontier[CHEAP][0].base_s == pytest.approx(1)
    # After a warm-up of each variant and scheduler.
    asked = [(a["num_inference_steps"], a["scheduler"]) for a in service.asked[2:8]]
    assert asked == [(25, "pndm"), (50, "pndm"), (4, "lcm"), (50, "pndm"), (4, "lcm"), (25, "pndm")]
    assert len({run.samples[0].index for run in record.runs}) == 3


def test_a_sweep_that_time_cuts_short_keeps_the_coarse_level_and_says_so() -> None:
    record = swept(a_service(), 11)  # A round of the first level takes 3.16 s.
    assert {len(record.frontier[setting]) for setting in (BASE, BEST, CHEAP)} == {3}
    assert record.left_out == ["3 of 3 pictures of the frontier's 2 steps"]
    assert swept(a_service(), 8).left_out[0].startswith("1 of 3 pictures of the frontier's 4, 25")
    nothing = swept(a_service(), 2)
    assert nothing.frontier == {}
    assert nothing.left_out[1] == "3 of 3 pictures of the frontier's 2 steps"


def test_a_setting_that_a_variant_refuses_is_named_and_is_no_failure() -> None:
    record = swept(a_service(least_steps=3), 60)
    assert replace(CHEAP, steps=2) not in record.frontier
    assert record.failures() == []
    assert record.left_out[0] == "the frontier's `small` with 2 steps of lcm: status 400: too few"


def test_what_is_refused_ends_the_sweep_only_where_the_others_are_held_to_it() -> None:
    # With no more steps than the default's, that is the reference, too.
    record = swept(a_service(least_steps=5), 60, best=BASE)
    assert {setting: len(drawn) for setting, drawn in record.frontier.items()} == {BASE: 3}
    assert len(swept(a_service(least_steps=26), 60).runs) == 1
