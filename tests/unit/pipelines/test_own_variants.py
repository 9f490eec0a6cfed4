"""Variants by configuration, drawn: components of their own, and UNets that predict v."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from serve.catalogue import MINIATURE
from serve.generation import SchedulerName, Source
from serve.miniature import WEIGHTS_DIR
from serve.own_variants import CatalogueEntry, with_entries
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.trajectories import Prediction
from tests.pictures import TOLERANCE, difference, draw, stock_edit, stock_picture

PROMPT = "a blue vase with red roses"
ENTRIES = [
    {"name": "v", "base": "original", "scheduler": {"folder": "scheduler_v"}},
    {"name": "v-few", "base": "original-lcm", "scheduler": {"folder": "scheduler_v"}},
    # Other words for the same ids, so that a prompt means something else.
    {"name": "words", "base": "original", "tokenizer": {"folder": "tokenizer_words"}},
]


@pytest.fixture(scope="module")
def own(tmp_path_factory: Any) -> Pipeline:
    """The miniature's teacher beside variants of one's own over its folder."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("family") / "own"
    shutil.copytree(WEIGHTS_DIR, folder)
    shutil.copytree(folder / "scheduler", folder / "scheduler_v")
    config = folder / "scheduler_v/scheduler_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"prediction_type": "v_prediction"})
    )
    _other_words(folder / "tokenizer", folder / "tokenizer_words")
    entries = [CatalogueEntry.model_validate(entry) for entry in ENTRIES]
    family = with_entries(MINIATURE, entries)
    names = ["original", "original-lcm", *(entry.name for entry in entries)]
    return Pipeline.load([family.variants[name] for name in names], folder, "cpu")


def _other_words(tokenizer: Path, copy: Path) -> None:
    """A tokenizer that reads "blue" where the other reads "red", and the other way round."""
    shutil.copytree(tokenizer, copy)
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["blue</w>"], words["red</w>"] = words["red</w>"], words["blue</w>"]
    path.write_text(json.dumps(content))


def asked(own: Pipeline, name: str, **changes: Any) -> Any:
    variant = own._variants[name]
    return variant.generation(PROMPT, [7], changes.pop("steps", 5), **changes)


SCHEDULERS = [name for name in get_args(SchedulerName) if name != "lcm"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheduler", [*SCHEDULERS, "lcm"])
def test_a_unet_that_predicts_v_draws_as_diffusers_does(own: Pipeline, scheduler: str) -> None:
    name = "v-few" if scheduler == "lcm" else "v"
    job = asked(own, name, scheduler=scheduler)
    expected = stock_picture(own, job)
    assert difference(draw(own, job), expected) <= TOLERANCE
    other = replace(job, variant="original-lcm" if scheduler == "lcm" else "original")
    assert difference(draw(own, other), expected) > 2  # Prediction of noise would draw another.


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_it_edits_as_diffusers_does(own: Pipeline, scheduler: str) -> None:
    pixels = draw(own, asked(own, "original"))[0]
    source = Source(pixels.tobytes(), None, 0.6)
    job = asked(own, "v", scheduler=scheduler, steps=8, source=source)
    assert difference(draw(own, job), stock_edit(own, job)) <= TOLERANCE


@pytest.mark.parametrize("call", [1, 7])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_its_preview_takes_what_it_predicts_out_of_the_sample(
    own: Pipeline, scheduler: str, call: int
) -> None:
    (image,), _ = own.begin(asked(own, "v", scheduler=scheduler, steps=9))
    finished, noise = torch.randn(2, 1, 4, 12, 12)
    at = image.timesteps[call]
    image.scheduler.set_begin_index(call) if hasattr(image.scheduler, "set_begin_index") else None
    sample = image.scheduler.add_noise(finished, noise, at[None])
    # Of the schedule itself: both Eulers' timesteps are no whole numbers of it.
    power = image.scheduler.alphas_cumprod[int(at)]
    predicted = power.sqrt() * noise - (1 - power).sqrt() * finished
    estimate = image.estimate(Prediction(sample, predicted, call, None))
    torch.testing.assert_close(estimate, finished, rtol=0.01, atol=0.02)


def test_variants_that_share_a_text_encoder_keep_their_tokenizers(own: Pipeline) -> None:
    swapped = asked(own, "original").prompt.replace("blue", "x").replace("red", "blue")
    theirs = replace(asked(own, "original"), prompt=swapped.replace("x", "red"))
    drawn = draw(own, asked(own, "words"))
    assert difference(drawn, draw(own, theirs)) <= TOLERANCE
    assert difference(drawn, draw(own, asked(own, "original"))) > 2
