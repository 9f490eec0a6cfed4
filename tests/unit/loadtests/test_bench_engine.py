"""The benchmark's arithmetic, and what it refuses."""

import asyncio
import threading
from collections.abc import Iterator

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from loadtests.bench.engine.__main__ import main
from loadtests.bench.engine.contenders import Ours, Stock
from loadtests.bench.engine.load import capacity_per_s, poisson_requests, shuffled_steps
from loadtests.bench.engine.report import regime
from loadtests.bench.engine.sections import (
    OPTIMISATIONS,
    fixed_share,
    flop_per_picture,
    mean_difference,
)
from loadtests.bench.engine.timing import Clock, alternate
from loadtests.published import FLOP_BOUND, PROMPT, STEPS
from loadtests.rounds import Spread
from serve.catalogue import MINIATURE, SD_V1
from serve.engine.loop import Settings
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.pipeline import Pipeline
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
    assert Spread.of_ratios([2.0, 6.0], [1.0, 3.0]) == Spread(2.0, 2.0, 2.0, 2)


def test_a_spread_reads_as_median_lowest_and_highest() -> None:
    assert Spread.of([0.3, 0.1, 0.2]).text(1000, 0) == "200 (100 to 300)"


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
    ("name", "gflop"),
    [
        ("unet", 803.3),
        ("unet_distilled", 510.9),
        ("unet_bk_base", 523.0),
        ("unet_bk_tiny", 485.5),
        ("vae", 2514.5),
        ("vae_tiny", 141.35),
    ],
)
def test_the_counter_counts_the_published_flop_of_a_unet_call_and_a_decode(
    name: str, gflop: float
) -> None:
    component = SD_V1.components(SD_V1.variants)[name]
    with torch.device("meta"):
        model = build_model(component, architecture_dir("sd-v1") / name)
        latents = torch.randn(1, 4, 64, 64)
        text = torch.tensor([1]), torch.randn(1, 77, 768)
    with FlopCounterMode(display=False) as counter:
        model(latents, *text) if name.startswith("unet") else model.decode(latents)
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=2e-3)


def test_the_flop_bounds_are_those_of_the_steps_of_each_variant() -> None:
    unets = {"original": 803.3, "distilled": 510.9}
    text, kl, tiny = 13.3, 2514.5, 141.4
    gflop = {
        name: (2 * text + 52 * unets[name.split("-")[0]])
        if "lcm" not in name
        else (text + 4 * unets[name.split("-")[0]])
        for name in FLOP_BOUND
    }
    total = {name: each + (tiny if "tiny" in name else kl) for name, each in gflop.items()}
    assert {name: total["original"] / each for name, each in total.items()} == pytest.approx(
        FLOP_BOUND, rel=0.005
    )


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
    assert flop_per_picture(eager, ours.variant, STEPS) == counter.get_total_flops()


def test_ours_draws_through_the_engine_what_the_pipeline_draws(ours: Ours) -> None:
    trajectories = ours.begin(PROMPT, [3], 2)
    for _ in range(3):
        ours.pipeline.step(trajectories)
    by_hand = Image.fromarray(ours.pipeline.decode(trajectories)[0])
    assert mean_difference(ours.draw(PROMPT, [3], 2), [by_hand]) == 0
    assert {thread.name for thread in threading.enumerate()} >= {"denoise", "decode"}


def test_each_step_count_comes_as_often_as_the_others() -> None:
    drawn = shuffled_steps(30, seed=1)
    assert {steps: drawn.count(steps) for steps in drawn} == {10: 10, 25: 10, 50: 10}
    assert drawn == shuffled_steps(30, seed=1) != shuffled_steps(30, seed=2)


def test_requests_of_one_seed_are_the_same_for_every_policy(ours: Ours) -> None:
    first = poisson_requests(ours, 6, 2.0, seed=4)
    assert first == poisson_requests(ours, 6, 2.0, seed=4)
    assert 0 < first[-1][0] <= 3.0
    assert [asked.seeds for _, asked in first] == [(index,) for index in range(6)]


def test_the_capacity_is_what_an_engine_draws_while_others_wait(ours: Ours) -> None:
    settings = Settings("batch", cap=2)
    assert asyncio.run(capacity_per_s(ours, settings, [2] * 5)) > 0


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.05, "saturated"), (0.3, "between"), (0.8, "launch-bound"), (None, "not decided")],
)
def test_the_regime_is_named(share: float | None, words: str) -> None:
    costs = {"stages": {"step_fixed_share": share}, "batches": {"1": {"peak_share": 0.4}}}
    assert regime(costs).startswith(words)


def test_parity_is_the_mean_difference_of_8_bit_values() -> None:
    dark, light = Image.new("RGB", (4, 4), (0, 0, 0)), Image.new("RGB", (4, 4), (255, 255, 255))
    assert mean_difference([dark], [light]) == 255
    assert mean_difference([dark, light], [dark, light]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        pytest.param(["--variants", "huge"], "'huge' was given; allowed: original", id="variant"),
        pytest.param(["--batches", "0"], "--batches: '0' was given", id="batches"),
        pytest.param(["--rounds", "0"], "--rounds: 0 was given", id="rounds"),
        pytest.param(["--requests", "-1"], "--requests: -1 was given", id="requests"),
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
