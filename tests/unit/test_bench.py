"""The benchmark's arithmetic, and what it refuses."""

import pytest
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from loadtests.bench.__main__ import main
from loadtests.bench.contenders import Ours
from loadtests.bench.sections import EAGER, _difference, _flop_per_picture, fixed_share
from loadtests.bench.timing import Clock, Spread, alternate, ratios
from loadtests.published import PROMPT, STEPS
from serve.miniature import WEIGHTS_DIR
from serve.pipelines import Pipeline
from serve.variants import MINIATURE, SD_V1
from serve.weights.layout import architecture_dir
from serve.weights.random_values import build_model

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


def test_a_pictures_flop_are_those_of_all_its_steps() -> None:
    variant = MINIATURE.variants["distilled-tiny-vae"]
    ours = Ours(Pipeline.load([variant], WEIGHTS_DIR, "cpu", EAGER), variant)
    with FlopCounterMode(display=False) as counter:
        ours.draw(PROMPT, [0], STEPS)
    assert _flop_per_picture(ours) == counter.get_total_flops()


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
        pytest.param(["--weights-dir", "/nowhere"], "'/nowhere' is not a folder", id="folder"),
        pytest.param(
            ["--family", "sd-v1", "--weights-dir", "/nowhere"], "is not a folder", id="sd-v1"
        ),
    ],
)
def test_bad_arguments_are_one_clear_line(
    arguments: list[str],
    complaint: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    try:
        assert main() == 1
    except SystemExit as ended:
        assert ended.code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
