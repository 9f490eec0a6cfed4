"""The benchmark's arithmetic, and what it refuses."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from loadtests.bench.__main__ import main
from loadtests.bench.contenders import Ours, Stock
from loadtests.bench.overlap import Scope, Watched, count_cancels, counted
from loadtests.bench.policies import MIXES, Cell, Traffic, compare_policies, forecast_errors
from loadtests.bench.sections import OPTIMISATIONS, _difference, fixed_share, flop_per_picture
from loadtests.bench.step_profile import profile_step
from loadtests.bench.timing import Clock, Spread, alternate, ratios, turns
from loadtests.bench.traffic import MIXED, UNIFORM, jobs, poisson_arrivals, saturate, shuffled
from loadtests.published import PROMPT, STEPS
from serve.engine.loop import Settings
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.pipeline import Pipeline
from serve.variants import MINIATURE, SD_V1
from serve.weights.layout import architecture_dir
from serve.weights.random_values import build_model
from tests.commands import run_main

CPU = torch.device("cpu")


def test_every_contender_is_timed_once_a_round_and_none_is_always_first() -> None:
    order: list[str] = []
    contenders = {name: lambda name=name: order.append(name) for name in "abc"}
    seconds = alternate(contenders, 3, Clock(CPU))
    assert order == [*"abc", *"bca", *"cab"]
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_ratios_are_taken_within_rounds() -> None:
    # The second round was three times slower for both.
    assert ratios([2.0, 6.0], [1.0, 3.0]) == Spread(2.0, 2.0, 2.0, 2)


@pytest.mark.parametrize(
    ("step_s", "share"),
    [
        pytest.param({1: 1.0, 2: 2.0, 4: 4.0}, 0.0, id="grows-with-the-work"),
        pytest.param({1: 1.0, 2: 1.0, 4: 1.0}, 1.0, id="does-not-grow"),
        pytest.param({1: 2.0, 2: 3.0, 8: 9.0}, 0.2, id="one-fixed-and-one-each"),
        pytest.param({1: 1.0, 4: 4.0}, None, id="too-few"),
    ],
)
def test_the_fixed_share_is_what_does_not_grow(
    step_s: dict[int, float], share: float | None
) -> None:
    assert fixed_share(step_s) == (None if share is None else pytest.approx(share, abs=1e-6))


@pytest.mark.parametrize(
    ("name", "gflop"), [("unet", 803.3), ("unet_distilled", 510.9)], ids=["original", "distilled"]
)
def test_the_counter_counts_the_published_flop_of_a_unet_call(name: str, gflop: float) -> None:
    component = SD_V1.components(SD_V1.variants)[name]
    with torch.device("meta"):
        unet = build_model(component, architecture_dir("sd-v1") / name)
        inputs = torch.randn(1, 4, 64, 64), torch.tensor([1]), torch.randn(1, 77, 768)
    with FlopCounterMode(display=False) as counter:
        unet(*inputs)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=2e-3)


@pytest.mark.parametrize(
    ("name", "gflop"), [("vae", 2514.5), ("vae_tiny", 141.35)], ids=["kl", "tiny"]
)
def test_the_counter_counts_the_published_flop_of_a_decode(name: str, gflop: float) -> None:
    component = SD_V1.components(SD_V1.variants)[name]
    with torch.device("meta"):
        vae = build_model(component, architecture_dir("sd-v1") / name)
        latents = torch.randn(1, 4, 64, 64)
    with FlopCounterMode(display=False) as counter:
        vae.decode(latents)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=2e-3)


@pytest.fixture(scope="module")
def ours() -> Iterator[Ours]:
    Clock(CPU)  # One thread for torch, as in a benchmark.
    variant = MINIATURE.variants["distilled-tiny-vae"]
    made = Ours(Pipeline.load([variant], WEIGHTS_DIR, "cpu", OPTIMISATIONS), variant)
    yield made
    made.close()


def test_a_pictures_flop_are_those_of_all_its_steps(ours: Ours) -> None:
    with FlopCounterMode(display=False) as counter:
        trajectories = ours.begin(PROMPT, [0], STEPS)
        for _ in range(STEPS + 1):
            ours.pipeline.step(trajectories)
        ours.pipeline.decode(trajectories)
    eager = Stock(ours.variant, WEIGHTS_DIR, "cpu").eager
    assert flop_per_picture(eager, ours.variant) == counter.get_total_flops()


def test_ours_draws_through_the_engine_what_the_pipeline_draws(ours: Ours) -> None:
    trajectories = ours.begin(PROMPT, [3], 2)
    for _ in range(3):
        ours.pipeline.step(trajectories)
    by_hand = Image.fromarray(ours.pipeline.decode(trajectories)[0])
    assert _difference(ours.draw(PROMPT, [3], 2), [by_hand]) == 0
    assert {thread.name for thread in threading.enumerate()} >= {"denoise", "decode"}


def test_the_order_of_turns_changes_from_round_to_round() -> None:
    assert turns("abc", 4) == [[*"abc"], [*"bca"], [*"cab"], [*"abc"]]


def test_each_step_count_comes_as_often_as_the_others() -> None:
    drawn = shuffled(MIXED, 30, seed=1)
    assert {one: drawn.count(one) for one in MIXED} == {10: 10, 25: 10, 50: 10}
    assert drawn == shuffled(MIXED, 30, seed=1) != shuffled(MIXED, 30, seed=2)
    assert shuffled(UNIFORM, 3, seed=0) == [25, 25, 25]


def test_arrivals_of_one_seed_are_the_same_for_every_policy(ours: Ours) -> None:
    first = poisson_arrivals(ours, MIXED, 6, 2.0, seed=4)
    assert first == poisson_arrivals(ours, MIXED, 6, 2.0, seed=4)
    assert [one.calls for one in first] == [one.generation.num_inference_steps + 1 for one in first]
    assert max(one.at_s for one in first) <= 3.0
    assert [one.seeds for one in jobs(ours, [1, 2])] == [(0,), (1,)]


@pytest.mark.thorough
def test_policies_serve_every_arrival_and_forecasts_are_held_to_them(
    ours: Ours, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ours, "settings", Settings(cap=2))
    monkeypatch.setitem(MIXES, "uniform", (3,))
    traffic = Traffic((Cell("uniform", 0.5, 3),), repeats=2)
    found, calls = compare_policies(ours, traffic, lambda _: None)
    (cell,) = found["cells"]
    assert {"batch", "step"} <= set(cell["policies"])
    for figures in cell["policies"].values():
        assert [len(run) for run in figures["samples"]] == [3, 3]
        assert figures["p50_s"] <= figures["p95_s"] <= figures["p99_s"]
    assert cell["mean_against_batch"]["step"]["count"] == 2
    assert sum(map(len, calls.call_s.values())) >= 4
    (forecast,) = forecast_errors(found["cells"])
    assert forecast["requests"] == 6
    assert forecast["p10"] <= forecast["p50"] <= forecast["p90"]


def test_a_full_queue_is_counted_while_somebody_waits(ours: Ours) -> None:
    settings = Settings("serial", cap=4)
    assert asyncio.run(saturate(ours, settings, [2] * 4)) > 0


def test_calls_after_a_cancel_are_counted_by_whether_they_were_running() -> None:
    calls = [
        (0.0, 1.0, frozenset({1, 2})),
        (1.0, 2.0, frozenset({1, 2})),
        (2.0, 3.0, frozenset({2})),
    ]
    found = counted(calls, {1: 1.5, 2: 0.5, 3: 0.2})
    assert found["cancels"] == 3
    assert found["under_way"] == 2
    assert found["in_flight"] == {"0": 1, "1": 2}
    assert found["begun_after"] == {"0": 2, "2": 1}
    assert found["most"] == 3


def test_cancels_are_counted_on_the_engine(ours: Ours) -> None:
    found = count_cancels(ours, Scope(repeats=1, requests=1, cancels=6))
    assert found["cancels"] == 6
    # One that is running when it is cancelled, and one that was just about to begin.
    assert found["most"] <= 2


def test_a_watched_pipeline_draws_what_it_would_unwatched(ours: Ours) -> None:
    watched = Watched(ours.pipeline)
    job = ours.generation(PROMPT, [5], 1)
    trajectories, _ = watched.begin(job)
    watched.step(trajectories)
    (call,) = watched.calls
    assert call[2] == {5}
    alone, _ = ours.pipeline.begin(job)
    ours.pipeline.step(alone)
    assert (watched.decode(trajectories) == ours.pipeline.decode(alone)).all()


def test_a_profile_names_the_operators_of_a_step(ours: Ours) -> None:
    found = profile_step(ours, 1)
    shares = [one["share"] for one in found["operators"]]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < sum(shares) <= 1
    assert any("conv" in one["name"] for one in found["operators"])


def test_parity_is_the_mean_difference_of_8_bit_values() -> None:
    dark, light = Image.new("RGB", (4, 4), (0, 0, 0)), Image.new("RGB", (4, 4), (255, 255, 255))
    assert _difference([dark], [light]) == 255
    assert _difference([dark, light], [dark, light]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--variants", "huge"], "'huge' was given; allowed: original", id="variant"),
        pytest.param(["--batches", "0"], "--batches: '0' was given", id="batches"),
        pytest.param(["--rounds", "0"], "--rounds: 0 was given", id="rounds"),
        pytest.param(["--repeats", "0"], "--repeats: 0 was given", id="repeats"),
        pytest.param(["--loads", "mixed:1.5"], "'mixed:1.5' was given", id="load"),
        pytest.param(["--loads", "odd:0.5"], "'odd:0.5' was given; allowed: mixed", id="mix"),
        pytest.param(["--weights-dir", "/nowhere"], "'/nowhere' is not a folder", id="folder"),
        pytest.param(
            ["--family", "sd-v1", "--weights-dir", "/nowhere"], "is not a folder", id="sd-v1"
        ),
    ],
)
def test_bad_arguments_are_one_clear_line(arguments: list[str], complaint: str) -> None:
    done = run_main(main, *arguments)
    assert done.returncode in (1, 2)
    assert complaint in done.stderr.splitlines()[-1]
