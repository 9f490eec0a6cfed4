"""The comparison's arithmetic: ratios, rates, the search, words, and the gate."""

import base64
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadtests import arrivals
from loadtests.compare.auto import find_auto, offers, slo_of_auto_s
from loadtests.compare.costs import Cheapest, Costs, cheapest, costs
from loadtests.compare.decoders import clip_scores, served_variants, vae_pairs
from loadtests.compare.design import Design
from loadtests.compare.endpoint import Endpoint
from loadtests.compare.findings import compare, find, slo_s
from loadtests.compare.gate import Change, NotComparable, changes, check_comparable, read_report
from loadtests.compare.quality import similarity, to_reference
from loadtests.compare.ratios import Difference, Ratio, Repeated
from loadtests.compare.record import Record, Run
from loadtests.compare.rungs import Carried, Rung, capacity_per_s, carried, rung
from loadtests.compare.search import first_rate, for_the_curve, for_the_search, next_rate
from loadtests.compare.verdict import of_auto, verdict
from loadtests.workload import Workload
from serve.catalogue import MINIATURE, SD_V1
from serve.http.models import _model
from serve.own_variants import CatalogueEntry, ComponentEntry, with_entries
from serve.variants import Family
from serve.weights.layout import architecture_dir
from serve.weights.manifest import read_manifest
from tests.fake_service import reply_to
from tests.unit.loadtests.samples import sample

DESIGN = Design(("original", "distilled"), Workload.shipped("miniature"))


def rounds(*values: float) -> Repeated:
    return Repeated(dict(enumerate(values)))


def test_a_ratio_is_taken_within_the_rounds_that_both_have() -> None:
    # The second round was three times slower for both.
    ratio = Ratio.of(rounds(2.0, 6.0, 2.1), rounds(1.0, 3.0, 1.0, 9.0))
    assert ratio is not None
    assert ratio.outcome == "better"
    assert ratio.value == pytest.approx(2.03, abs=0.01)
    assert Ratio.of(Repeated({0: 1.0}), Repeated({1: 1.0})) is None


@pytest.mark.parametrize(
    ("more", "less", "outcome"),
    [
        pytest.param((1.5, 1.6, 1.4), (1.0, 1.0, 1.0), "better", id="better"),
        pytest.param((1.0, 1.0, 1.0), (1.5, 1.6, 1.4), "worse", id="worse"),
        pytest.param((1.0, 1.3, 0.9), (1.0, 1.0, 1.0), "tie", id="within-the-noise"),
        pytest.param((9.0,), (1.0,), "not decided", id="one-round"),
    ],
)
def test_a_difference_within_the_noise_is_a_tie(
    more: Sequence[float], less: Sequence[float], outcome: str
) -> None:
    ratio = Ratio.of(rounds(*more), rounds(*less))
    assert ratio is not None
    assert ratio.outcome == outcome


def test_equal_variants_are_called_different_in_one_run_of_twenty() -> None:
    drawn, decided = random.Random(0), 0
    for _ in range(400):
        ours, theirs = (rounds(*(drawn.gauss(1, 0.05) for _ in range(4))) for _ in range(2))
        ratio = Ratio.of(ours, theirs)
        assert ratio is not None
        decided += ratio.outcome != "tie"
    assert 5 <= decided <= 40  # 5 % of 400 are 20.


def a_rung(latencies_s: Sequence[float], limit_s: float = 1.0, **fields: Any) -> Rung:
    samples = [sample(latency_s, at_s) for at_s, latency_s in enumerate(latencies_s)]
    samples += [sample(0.1, outcome=outcome) for outcome in fields.get("outcomes", ())]
    run = Run("open loop", "original", 0, rate_per_s=1.0, duration_s=len(samples), samples=samples)
    return rung(DESIGN, [run], 1.0, limit_s)


@pytest.mark.parametrize(
    ("latencies_s", "outcomes", "slo"),
    [
        pytest.param([0.5] * 95 + [2.0] * 5, [], "met", id="five-of-a-hundred-late"),
        pytest.param([0.5] * 94 + [2.0] * 6, [], "missed", id="six-of-a-hundred-late"),
        pytest.param([0.5] * 99, [], "not decided", id="too-few-to-have-met-it"),
        pytest.param([2.0] * 6, [], "missed", id="six-are-enough-to-have-missed-it"),
        pytest.param([0.5] * 99, ["rejected"], "met", id="one-percent-rejected"),
        pytest.param([0.5] * 98, ["rejected"] * 2, "missed", id="two-percent-rejected"),
        pytest.param([0.5] * 94, ["failed"] * 6, "missed", id="failed"),
    ],
)
def test_whether_a_rate_met_the_slo(
    latencies_s: list[float], outcomes: list[str], slo: str
) -> None:
    assert a_rung(latencies_s, outcomes=outcomes).slo == slo


def test_a_p95_from_fewer_than_a_hundred_is_not_decided() -> None:
    assert a_rung([0.5] * 99).p95_s is None
    assert a_rung([0.5] * 100).p95_s == 0.5


def test_a_rate_that_the_generator_could_not_keep_is_not_decided() -> None:
    late = [replace(each, fired_s=each.fired_s + 0.02) for each in [sample(0.5)] * 100]
    run = Run("open loop", "original", 0, rate_per_s=1.0, duration_s=100, samples=late)
    seen = rung(DESIGN, [run], 1.0, 1.0)
    assert seen.slo == "not decided"
    assert "late" in seen.void


def test_a_run_that_began_with_a_queue_says_so() -> None:
    run = Run("open loop", "x", 0, rate_per_s=1.0, duration_s=1, samples=[sample(1, queue_s=0.5)])
    assert rung(DESIGN, [run], 1.0, 1.0).busy_at_start
    assert not a_rung([0.5]).busy_at_start


def at(rate_per_s: float, slo: str) -> Rung:
    return replace(a_rung([0.5]), rate_per_s=rate_per_s, slo=slo)  # type: ignore[arg-type]


def test_a_void_rate_is_tried_beside_it_with_samples_of_its_own_a_few_times() -> None:
    found = find(DESIGN, a_record())["original"]
    tried: list[Rung] = []
    while rate := for_the_search(DESIGN, replace(found, rungs=tuple(tried)), 1.8):
        assert rate not in [earlier.rate_per_s for earlier in tried]
        tried.append(replace(at(rate, "not decided"), void="late"))
    assert len(tried) == 4
    tried[-1] = at(tried[-1].rate_per_s, "met")
    assert for_the_search(DESIGN, replace(found, rungs=tuple(tried)), 1.8) > tried[-1].rate_per_s
    undecided = (at(1.0, "not decided"),)
    assert for_the_search(DESIGN, replace(found, rungs=undecided), 1.8) == 0


def test_the_bracket_of_the_highest_rate() -> None:
    rungs = [at(1, "met"), at(2, "met"), at(3, "not decided"), at(4, "missed"), at(5, "met")]
    assert carried(rungs, 9.0) == Carried(2, 4)
    assert carried([at(1, "met")], 9.0) == Carried(1, None)
    assert carried([], 9.0) == Carried(None, None)


def test_a_rate_beyond_the_capacity_is_not_carried_however_lax_the_slo() -> None:
    assert carried([at(1, "met"), at(2, "met")], 1.5) == Carried(1.5, 1.15 * 1.5, True)
    assert carried([at(2, "met"), at(2.1, "missed")], 1.9) == Carried(1.9, 2.1, True)
    record = a_record()
    record.runs += [
        open_loop(name, rate, 0) for name, rate in (("original", 2.5), ("distilled", 9))
    ]
    # All of the runs' answers come at once, long after their schedules: 100 in 60 s and in 30 s.
    for run in record.runs[-2:]:
        last_s = 60.0 if run.variant == "original" else 30.0
        run.samples[:] = [replace(each, done_s=last_s) for each in run.samples]
    lax = replace(DESIGN, slo_s=99.0)
    found = find(lax, record)
    (original, distilled) = costs(found, {}, 1, None).values()
    assert original.at_slo is not None
    assert distilled.at_slo is not None
    assert original.at_slo.device_s_per_image == pytest.approx(0.6, rel=0.02)
    assert distilled.at_slo.device_s_per_image == pytest.approx(0.3, rel=0.02)
    assert cheapest(costs(found, {}, 1, None)) == Cheapest("at_slo", ("distilled",))
    assert for_the_search(lax, found["original"], 99.0) == 0.0
    words = verdict(found, [], costs(found, {}, 1, None), {}, 99.0)
    assert "(1.67/s, all that it draws)" in words[1]


@pytest.mark.parametrize("limit", [0.3, 1.9, 2.0, 2.1, 3.1, 9.0])
def test_the_search_ends_close_to_the_highest_rate(limit: float) -> None:
    met: list[float] = []
    missed: list[float] = []
    while rate := next_rate(2.0, met, missed):
        (met if rate <= limit else missed).append(rate)
        assert len(met) + len(missed) <= 8
    assert max(met) <= limit < min(missed) <= 1.16 * max(met)
    if 1.15 > limit / 2.0 > 0.9:  # The first rate was about right.
        assert len(met) + len(missed) == 2


@pytest.mark.parametrize("slo_s", [1.5, 3.0, 5.0])
def test_the_first_rate_is_the_highest_whose_run_of_even_work_meets_the_slo(slo_s: float) -> None:
    def p95_s(rate_per_s: float) -> float:
        """Of a run's hundred requests in two rounds, by one server with work of 1 s each."""
        latencies_s = []
        for seed in (0, 50):
            free_s = 0.0
            for at_s in arrivals.poisson_of(50, rate_per_s, seed=seed):
                free_s = max(free_s, at_s) + 1.0
                latencies_s.append(free_s - at_s)
        return sorted(latencies_s)[94]

    rate = first_rate(1.0, 1.0, slo_s)
    assert p95_s(rate) <= slo_s < p95_s(rate + 0.005)


def test_an_slo_below_the_work_itself_begins_low() -> None:
    assert 0 < first_rate(1.0, 1.0, 0.5) < 0.1


@pytest.mark.parametrize(
    ("tried", "share"),
    [((), 0.75), ((0.7,), 0.5), ((0.76, 0.5), 0.25), ((0.75, 0.5, 0.25), 0.0), ((0.1,) * 4, 0.0)],
)
def test_rates_for_the_curve_are_within_the_slo_and_not_those_that_were_tried(
    tried: Sequence[float], share: float
) -> None:
    rungs = (*(at(each * 2.0, "met") for each in tried), at(2.0, "met"), at(2.3, "missed"))
    found = replace(find(DESIGN, a_record())["original"], rungs=rungs, carried=carried(rungs, 9.0))
    assert for_the_curve(DESIGN, found, 0.0) == share * 2.0
    assert for_the_curve(DESIGN, replace(found, carried=Carried(None, 2.3)), 0.0) == 0.0


def test_a_rates_edits_have_a_p50_of_their_own() -> None:
    samples = [sample(2.0), sample(2.0), sample(1.0, edit=True), sample(9.0, outcome="failed")]
    seen = rung(DESIGN, [Run("open loop", "x", 0, rate_per_s=1.0, samples=samples)], 1.0, 3.0)
    assert (seen.p50_s, seen.generations_p50_s, seen.edits_p50_s) == (2.0, 2.0, 1.0)


def test_many_replicas_carry_more_than_the_closed_loops_few_users_show() -> None:
    # 25/s, each drawn in 2 s, are drawn at once by as many as it takes; 8 users have 4/s of them.
    samples = [sample(2.0, index / 25) for index in range(100)]
    run = Run("open loop", "x", 0, rate_per_s=25.0, duration_s=4.0, samples=samples)
    seen = rung(DESIGN, [run], 25.0, 3.0)
    assert seen.achieved_per_s == pytest.approx(100 / 5.96)
    assert capacity_per_s(4.0, [seen]) == pytest.approx(25)
    # Too few answers don't tell a rate.
    few = replace(run, samples=samples[:49])
    assert capacity_per_s(4.0, [rung(DESIGN, [few], 25.0, 3.0)]) == 4.0


def closed(variant: str, round_: int, users: int, image_s: float, requests: int = 4) -> Run:
    samples = [sample(image_s * users, image_s * (turn + 1 - users)) for turn in range(requests)]
    return Run("closed loop", variant, round_, users=users, samples=samples)


def a_record() -> Record:
    record = Record()
    for round_, noise in enumerate((1.0, 1.01, 0.99)):
        for variant, image_s in (("original", 0.6), ("distilled", 0.3)):
            seed = [sample(4 * image_s * noise, 4 * image_s * noise * turn) for turn in range(3)]
            record.runs.append(Run("seed workload", variant, round_, samples=seed))
            record.runs += [
                closed(variant, round_, users, image_s * noise) for users in DESIGN.users
            ]
    return record


def test_the_figures_of_a_record() -> None:
    record = a_record()
    found = find(DESIGN, record)
    original = found["original"]
    assert original.seed_workload_s is not None
    assert original.seed_workload_s.median == pytest.approx(7.2)
    assert original.single_s is not None
    assert original.single_s.median == pytest.approx(0.6)
    assert slo_s(DESIGN, record) == pytest.approx(1.8)
    assert slo_s(replace(DESIGN, slo_s=4.0), record) == 4
    assert original.images_per_s == pytest.approx(1 / 0.6, rel=0.02)
    (pair,) = compare(found)
    assert pair.throughput is not None
    assert pair.throughput.value == pytest.approx(2)
    assert pair.throughput.outcome == "better"
    assert pair.carried == "not decided"


def test_a_round_with_a_failure_is_no_seed_workload() -> None:
    record = a_record()
    run = next(record.of("seed workload", "original"))
    run.samples[0] = replace(run.samples[0], outcome="failed")
    seed = find(DESIGN, record)["original"].seed_workload_s
    assert seed is not None
    assert set(seed.by_round) == {1, 2}


def test_an_empty_record_finds_nothing_and_says_so() -> None:
    found = find(DESIGN, Record())
    assert found["original"].images_per_s is None
    assert compare(found)[0].throughput is None
    assert verdict(found, compare(found), {}, {}, None) == [
        "Nothing is decided: no throughput was measured."
    ]


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        pytest.param(Carried(3, 4), Carried(1, 2), "better", id="better"),
        pytest.param(Carried(1, 2), Carried(2.4, 3), "worse", id="worse"),
        pytest.param(Carried(1, 2), Carried(2.1, 3), "tie", id="too-close-to-call-worse"),
        pytest.param(Carried(2.1, 3), Carried(1, 2), "tie", id="too-close-to-call-better"),
        pytest.param(Carried(1, 3), Carried(2, 4), "tie", id="brackets-overlap"),
        pytest.param(Carried(3, None), Carried(1, 2), "better", id="no-upper-end"),
        pytest.param(Carried(None, None), Carried(1, 2), "not decided", id="nothing"),
    ],
)
def test_who_carries_more(ours: Carried, theirs: Carried, outcome: str) -> None:
    found = find(DESIGN, a_record())
    (pair,) = compare(
        {
            "original": replace(found["original"], carried=theirs),
            "distilled": replace(found["distilled"], carried=ours),
        }
    )
    assert pair.carried == outcome


def test_device_time_and_money() -> None:
    found = find(DESIGN, a_record())
    cost = costs(found, {"original": 2, "distilled": 1}, 0.5, 3.6)["original"]
    assert cost.devices == 1
    assert cost.at_slo is None
    assert cost.at_saturation.device_s_per_image == pytest.approx(0.6, rel=0.02)
    assert cost.at_saturation.images_per_device_hour == pytest.approx(6000, rel=0.02)
    assert cost.at_saturation.per_1000 == pytest.approx(0.6, rel=0.02)
    assert costs(found, {}, 1, None)["distilled"].at_saturation.per_1000 is None


def open_loop(variant: str, rate_per_s: float, late: int) -> Run:
    """A hundred requests, so many of them outside an SLO of 1.8 s."""
    samples = [sample(9.0 if at < late else 0.6, at / rate_per_s) for at in range(100)]
    return Run("open loop", variant, 0, None, rate_per_s, 100 / rate_per_s, samples)


def a_searched_record(distilled_per_s: float = 1.5) -> Record:
    record = a_record()
    for variant, met_per_s in (("original", 0.5), ("distilled", distilled_per_s)):
        record.runs += [open_loop(variant, met_per_s, 5), open_loop(variant, 1.2 * met_per_s, 6)]
    return record


def prices(record: Record, **replicas: int) -> dict[str, Costs]:
    return costs(find(DESIGN, record), replicas, 0.5, 3.6)


def test_the_cost_within_the_slo_is_that_of_the_highest_rate_that_met_it() -> None:
    found = prices(a_searched_record(), original=2)
    original, distilled = found["original"].at_slo, found["distilled"].at_slo
    assert original is not None
    assert distilled is not None
    # Two halves of a device for half an image a second; half a device for one and a half.
    assert original.device_s_per_image == 2
    assert original.images_per_device_hour == 1800
    assert original.per_1000 == 2
    assert distilled.device_s_per_image == pytest.approx(1 / 3)
    assert distilled.images_per_device_hour == pytest.approx(10_800)
    assert distilled.per_1000 == pytest.approx(1 / 3)
    assert (distilled.images_per_s.low, distilled.images_per_s.high) == (1.5, 1.2 * 1.5)
    two = costs(find(DESIGN, a_searched_record()), {"original": 2}, 0.5, 3.6, 2)["original"]
    assert two.at_slo is not None
    assert two.at_slo.per_1000 == 1
    assert two.at_saturation.per_1000 == pytest.approx(0.3, rel=0.02)


@pytest.mark.parametrize(
    ("distilled_per_s", "original_replicas", "variants"),
    [
        pytest.param(1.5, 1, ("distilled",), id="beyond-the-width-of-the-search"),
        pytest.param(0.65, 1, ("distilled", "original"), id="within-it"),
        pytest.param(0.65, 2, ("distilled",), id="as-many-for-half-the-devices"),
    ],
)
def test_the_cheapest_within_the_slo_is_decided_beyond_the_width_of_the_search(
    distilled_per_s: float, original_replicas: int, variants: tuple[str, ...]
) -> None:
    record = a_searched_record(distilled_per_s)
    found = cheapest(prices(record, original=original_replicas))
    assert found == Cheapest("at_slo", variants)


def test_a_variant_without_a_rate_within_the_slo_is_out_only_where_it_missed_a_lower_one() -> None:
    record = a_record()
    record.runs += [open_loop("distilled", 1.5, 0), open_loop("original", 2.0, 6)]
    assert cheapest(prices(record)).by == "at_saturation"
    record.runs.append(open_loop("original", 1.0, 6))
    assert cheapest(prices(record)) == Cheapest("at_slo", ("distilled",))
    (_, original, distilled) = verdict(
        find(DESIGN, record), [], prices(record, original=1, distilled=1), {}, 1.8
    )
    assert "missed p95 <= 1.80 s at 1.00/s, the lowest rate tried" in original
    assert "at least 10,800 images per device-hour with p95 <= 1.80 s (1.50/s" in distilled


def test_where_every_variant_missed_the_slo_the_verdict_says_so() -> None:
    record = a_record()
    record.runs += [open_loop("distilled", 1.5, 6), open_loop("original", 1.0, 6)]
    words, *_ = verdict(find(DESIGN, record), [], prices(record), {}, 1.8)
    assert "at saturation, as in batch jobs (no variant met p95 <= 1.80 s at any rate" in words


def test_the_verdict_names_the_cheapest_or_the_tie() -> None:
    found = find(DESIGN, a_record())
    clear = verdict(found, compare(found), costs(found, {}, 1, None), {}, 1.8)
    assert clear[0] == (
        "Most pictures for the money at saturation, as in batch jobs (which variant it is within "
        "the SLO is not decided): `distilled`."
    )
    assert "what it carries within the SLO is not decided" in clear[2]
    assert "2.00x `original`'s throughput" in clear[2]
    assert "one picture in 0.30 s" in clear[2]
    noisy = {**found, "distilled": found["original"]}
    tied = verdict(noisy, compare(noisy), costs(noisy, {}, 1, None), {}, 1.8)
    assert "`original` and `distilled`, which this run could not tell apart" in tied[0]
    assert "a tie with `original`'s" in tied[2]
    found = find(DESIGN, a_searched_record())
    decided = verdict(found, compare(found), costs(found, {}, 1, 3.6), {}, 1.8)
    assert decided[0] == "Most pictures for the money with p95 <= 1.80 s: `distilled`."
    assert decided[2].startswith(
        "`distilled`: 5,400 images per device-hour with p95 <= 1.80 s (1.50/s; missed at 1.80/s); "
        "1,000 cost 0.667; 3.0x the rate of `original`; "
    )


def test_one_variant_alone_is_no_choice() -> None:
    found = {"original": find(DESIGN, a_record())["original"]}
    (words,) = verdict(found, compare(found), costs(found, {}, 1, None), {}, 1.8)
    assert words.startswith("`original`: ")


@pytest.mark.parametrize(
    ("ours", "theirs", "outcome"),
    [
        pytest.param((1.0, 1.1, 1.05), (0.0, 0.0, 0.1), "better", id="against-nothing"),
        pytest.param((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), "tie", id="equal"),
        pytest.param((2.0, 2.0), (1.0, 1.0), "not decided", id="two-rounds"),
    ],
)
def test_a_difference_is_decided_from_three_rounds_on(
    ours: Sequence[float], theirs: Sequence[float], outcome: str
) -> None:
    difference = Difference.of(rounds(*ours), rounds(*theirs))
    assert difference is not None
    assert difference.outcome == outcome
    assert Difference.of(rounds(1.0), Repeated({7: 1.0})) is None


WITH_AUTO = replace(DESIGN, auto_against=("original", "distilled"), auto_slo_s=2.0)


def test_auto_is_offered_what_overloads_the_best_variant_beside_each_pinned_one() -> None:
    by_round = offers(WITH_AUTO, find(WITH_AUTO, a_record()), 2.0)
    capacity = 1 / 0.6
    first, second, third = by_round
    asked = {(offer.contender, round(offer.rate_per_s / capacity, 1)) for offer in second}
    everybody = ("auto", "original", "distilled")
    assert asked == {(name, load) for name in everybody for load in (1.2, 2.0)}
    calm = {(offer.contender, round(offer.rate_per_s / capacity, 1)) for offer in first} - asked
    assert calm == {("auto", 0.6)}
    for round_ in by_round:
        assert [offer.rate_per_s for offer in round_] == sorted(
            offer.rate_per_s for offer in round_
        )
        for rate in {offer.rate_per_s for offer in round_}:
            assert len({offer.requests for offer in round_ if offer.rate_per_s == rate}) == 1
        # Five SLOs long at least, and 20 requests.
        assert all(offer.requests >= max(20, 5 * 2.0 * offer.rate_per_s) for offer in round_)
    assert third[0].contender != second[0].contender  # In turns.
    slow = next(offer for offer in second if offer.contender == "original" and offer.rate_per_s > 3)
    assert slow.needed_s > slow.requests / capacity


def test_without_auto_or_any_throughput_nothing_is_offered() -> None:
    assert offers(DESIGN, find(DESIGN, a_record()), 2.0) == []
    assert offers(WITH_AUTO, find(WITH_AUTO, Record()), 2.0) == []
    assert find_auto(DESIGN, a_record()) == []
    assert of_auto([], 2.0) == []


def test_variants_as_fast_as_each_other_are_offered_one_rate_to_share() -> None:
    found = find(WITH_AUTO, a_record())
    equal = {"original": found["distilled"], "distilled": found["distilled"]}
    first, second, _ = offers(WITH_AUTO, equal, 2.0)
    assert len({offer.rate_per_s for offer in first}) == 2  # The calm one, too.
    assert len({offer.rate_per_s for offer in second}) == 1


def auto_run(
    contender: str, round_: int, latencies_s: Sequence[float], model: str = "", **fields: Any
) -> Run:
    reason = "degraded under load" if model == "distilled" else "the best, in time"
    samples = [
        sample(latency_s, at_s, model=model or contender, model_reason=reason, **fields)
        for at_s, latency_s in enumerate(latencies_s)
    ]
    return Run("auto", contender, round_, rate_per_s=1.0, duration_s=len(samples), samples=samples)


def an_auto_record() -> Record:
    record = a_record()
    for round_ in range(3):
        record.runs += [
            auto_run("auto", round_, [0.5] * 19 + [2.5], "distilled" if round_ else "original"),
            auto_run("original", round_, [0.5] * (7 + round_) + [9.0] * (13 - round_)),
            auto_run("distilled", round_, [0.3] * 20),
        ]
    return record


def test_the_goodput_of_auto_is_held_to_each_pinned_variant_round_by_round() -> None:
    (rate,) = find_auto(WITH_AUTO, an_auto_record())
    auto = rate.contenders["auto"]
    assert auto.goodput_per_s is not None
    assert auto.goodput_per_s.median == pytest.approx(0.95)  # 19 of 20, one a second.
    assert auto.within_slo == pytest.approx(0.95)
    assert rate.outcome("original") == "better"
    assert rate.outcome("distilled") == "worse"
    assert rate.share("distilled") == pytest.approx(2 / 3)
    assert rate.answers["original"] == {"the best, in time": 20}
    (words,) = of_auto([rate], slo_of_auto_s(WITH_AUTO, an_auto_record()))
    assert "`auto` at 1.00/s: 0.95 pictures/s within 2.00 s" in words
    assert "`original` (better)" in words
    assert "drawn by `original` 33%, `distilled` 67%" in words


def test_autos_slo_is_its_policys_and_else_the_comparisons() -> None:
    assert slo_of_auto_s(WITH_AUTO, a_record()) == 2.0
    weighted = replace(WITH_AUTO, auto_slo_s=None)
    assert slo_of_auto_s(weighted, a_record()) == slo_s(weighted, a_record())


def test_a_rate_whose_requests_were_late_decides_nothing_of_auto() -> None:
    record = an_auto_record()
    (first, *_) = record.of("auto", "original")
    first.samples = [replace(sample, fired_s=sample.fired_s + 0.02) for sample in first.samples]
    (rate,) = find_auto(WITH_AUTO, record)
    assert "late" in rate.void
    assert rate.outcome("original") == "not decided"


def test_a_round_that_was_cut_off_does_not_count() -> None:
    record = an_auto_record()
    (*_, last) = record.of("auto", "auto")
    last.duration_s = 0.0
    (rate,) = find_auto(WITH_AUTO, record)
    assert rate.contenders["auto"].requests == 40
    assert rate.outcome("original") == "not decided"


def picture(seed: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 255, (32, 32, 3), np.uint8)


def test_equal_pictures_are_equal_and_noise_is_not() -> None:
    equal = similarity([picture(1)], [picture(1)])
    assert (equal.ssim, equal.psnr_db) == (1, 100)
    other = similarity([picture(1)], [picture(2)])
    assert other.ssim < 0.2
    assert 5 < other.psnr_db < 12


def test_pictures_are_compared_where_both_were_drawn() -> None:
    drawn = {
        name: base64.b64decode(reply_to({"model": name, "seed": seed})["data"][0]["b64_json"])
        for name, seed in (("original", 1), ("distilled", 1))
    }
    found = to_reference({0: drawn, 1: {"original": drawn["original"]}}, ["original", "distilled"])
    assert (found["distilled"].pairs, found["distilled"].ssim) == (1, 1)


def pairs(family: Family, names: Sequence[str]) -> list[tuple[str, str]]:
    found = vae_pairs([family.variants[name] for name in names])
    return [(variant.name, other.name) for variant, other in found]


def test_the_tiny_vae_is_held_to_the_kl_vae_of_the_same_unet() -> None:
    for family in (MINIATURE, SD_V1):
        found = pairs(family, family.default_variants)
        assert found == [("distilled", "distilled-tiny-vae")]
    assert pairs(SD_V1, ["original", "original-lcm", "original-lcm-tiny-vae"]) == [
        ("original-lcm", "original-lcm-tiny-vae")
    ]


def test_variants_are_taken_as_the_service_lists_them() -> None:
    vae = ComponentEntry(folder="vae_tiny")
    entry = CatalogueEntry(name="mine", base="distilled", vae=vae, default_steps=7)
    known = with_entries(MINIATURE, [entry])
    manifest = read_manifest(architecture_dir("miniature"))
    models = {
        name: _model(known, variant, manifest, None).model_dump()
        for name, variant in known.variants.items()
    }
    for variant in served_variants(Endpoint("", "miniature", models, {}), [*models]):
        listed = known.variants[variant.name]
        assert variant.generation("a cat", [1]) == listed.generation("a cat", [1])
        assert variant.components == listed.components


def test_a_clip_score_is_a_cosine(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(architecture_dir("sd-v1") / "tokenizer")
    small = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    config = CLIPConfig(
        text_config={**small, "vocab_size": len(tokenizer)},
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(tmp_path)
    processor = CLIPImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    )
    CLIPProcessor(processor, tokenizer).save_pretrained(tmp_path)
    prompts = ["a red star", "a blue circle on a white background"]
    drawn = {"original": [picture(1), picture(2)], "fewer": [picture(3)]}
    scores = clip_scores(tmp_path, prompts, drawn)
    assert [len(each.cosines) for each in scores.values()] == [2, 1]
    assert all(-1 <= cosine <= 1 for each in scores.values() for cosine in each.cosines)
    assert scores["original"].cosines[0] != scores["fewer"].cosines[0]
    assert scores["original"].embeddings.shape == (2, 8)
    assert clip_scores(tmp_path, prompts, drawn, within_s=-1) == {}


def a_report(factor: float = 1.0, **workload: Any) -> dict[str, Any]:
    def repeated(value: float) -> dict[str, Any]:
        return {"by_round": {"0": value * 0.99, "1": value, "2": value * 1.01}}

    return {
        "report": "comparison",
        "complete": True,
        "endpoint": {"family": "miniature"},
        "design": {
            "workload": {"num_inference_steps": [25], "size": None, "guidance_scale": None,
                         "seed": 0, **workload}
        },
        "variants": {
            "original": {
                "seed_workload_s": repeated(7 * factor),
                "single_s": repeated(0.6 * factor),
                "closed": [{"images_per_s": repeated(1.6 / factor)}],
                "carried": {"met_per_s": 1.0 / factor, "missed_per_s": 1.2 / factor},
            }
        },
    }  # fmt: skip


def worse(found: Sequence[Change]) -> set[str]:
    return {entry.figure for entry in found if entry.worse}


def test_the_gate_lets_through_what_is_equal_better_or_within_tolerance() -> None:
    for factor in (1.0, 0.5, 1.08):
        assert worse(changes(a_report(), a_report(factor), 0.1)) == set()


def test_the_gate_names_everything_that_became_worse() -> None:
    assert worse(changes(a_report(), a_report(1.5), 0.1)) == {
        "seed workload, s", "one picture, s", "images/s", "rate within the SLO",
    }  # fmt: skip


def test_the_gate_allows_for_the_noise_of_both_runs() -> None:
    noisy = a_report(1.15)
    noisy["variants"]["original"]["single_s"]["by_round"] = {"0": 0.6, "1": 0.69, "2": 0.8}
    assert "one picture, s" not in worse(changes(a_report(), noisy, 0.05))
    assert "one picture, s" in worse(changes(a_report(), a_report(1.15), 0.05))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(a_report(num_inference_steps=[10]), id="steps"),
        pytest.param(a_report(size="64x64"), id="size"),
        pytest.param({**a_report(), "endpoint": {"family": "sd-v1"}}, id="family"),
    ],
)
def test_the_gate_refuses_to_compare_what_is_not_the_same(other: dict[str, Any]) -> None:
    with pytest.raises(NotComparable, match="baseline: "):
        check_comparable(other, "miniature", DESIGN.workload)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"report": "bench"}',
        json.dumps({**a_report(), "complete": False}),
        json.dumps({**a_report(), "variants": {"original": {}}}),
        "[" * 10_000,
    ],
)
def test_a_baseline_that_is_none_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text(content)
    with pytest.raises(NotComparable, match=r"report\.json"):
        read_report(path)
