"""The safety checker against diffusers' own, on a small one of its class."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from serve.catalogue import SD_V1
from serve.errors import OutOfDeviceMemory, WeightsError
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.safety import SafetyChecker, _flags
from tests.fakes import generation
from tests.pictures import draw
from tests.safety import (
    ALWAYS,
    NEVER,
    sd_v1_with_checker,
    small_image_processor,
    stand_in,
)

VARIANT = SD_V1.variants["distilled-tiny-vae"]


@functools.cache
def pictures() -> NDArray[np.uint8]:
    """Of patches of colour, so that no two are alike to a vision model."""
    drawn = np.random.default_rng(0).integers(0, 255, (24, 8, 8, 3), np.uint8)
    return drawn.repeat(12, axis=1).repeat(16, axis=2)


def prepared() -> torch.Tensor:
    pixels: torch.Tensor = small_image_processor()(
        list(pictures()), return_tensors="pt"
    ).pixel_values
    return pixels


def blackened(checker: torch.nn.Module, clip_input: torch.Tensor) -> list[bool]:
    """What diffusers' own makes black."""
    images, flags = checker(clip_input=clip_input, images=np.ones((len(clip_input), 4, 4, 3)))
    assert [not image.any() for image in images] == flags
    return list(flags)


def scores(name: str) -> np.ndarray:
    """The cosine of each picture with the first concept, or the first of special care."""
    checker = stand_in()
    with torch.no_grad():
        embeds = checker.visual_projection(checker.vision_model(prepared()).pooler_output)
        found = torch.cosine_similarity(embeds, getattr(checker, name)[:1])
    return found.numpy()


@pytest.mark.filterwarnings("ignore")
def test_it_flags_what_diffusers_own_makes_black() -> None:
    clip_input, found = prepared(), set()
    for concept in np.quantile(scores("concept_embeds"), (0.1, 0.5, 0.9), method="nearest"):
        for special_care in (NEVER, float(np.median(scores("special_care_embeds")))):
            # Just below a picture's score, where rounding decides, and above it, where only the
            # adjustment of special care takes it over the threshold.
            for nudge in (-0.0003, -0.0007, 0.004, 0.0095):
                checker = stand_in(float(concept) + nudge, special_care)
                with torch.no_grad():
                    flags = tuple(_flags(checker, clip_input).tolist())
                assert list(flags) == blackened(checker, clip_input)
                assert 0 < sum(flags) < len(flags)
                found.add((nudge, special_care, flags))
    # Special care made a difference.
    assert len({flags for _, _, flags in found}) > 3
    plain = {(nudge, flags) for nudge, special_care, flags in found if special_care == NEVER}
    assert {(nudge, flags) for nudge, special, flags in found if special != NEVER} - plain


@pytest.mark.parametrize(("concept", "expected"), [(ALWAYS, True), (NEVER, False)])
def test_a_checker_is_read_as_it_is_published(
    tmp_path: Path, concept: float, expected: bool
) -> None:
    folder = sd_v1_with_checker(tmp_path / "sd", concept)
    checker = SafetyChecker.load(VARIANT, folder, torch.device("cpu"), torch.float32)
    before = pictures().copy()
    assert checker.flagged(pictures()) == [expected] * len(pictures())
    assert np.array_equal(pictures(), before)
    # The published names are not those of this version of transformers: none got lost.
    for name, tensor in stand_in(concept).named_parameters():
        assert torch.allclose(checker._model.get_parameter(name), tensor, atol=1e-3), name


def test_pictures_are_judged_one_by_one_in_whatever_company(tmp_path: Path) -> None:
    threshold = float(np.median(scores("concept_embeds")))
    folder = sd_v1_with_checker(tmp_path / "sd", threshold)
    checker = SafetyChecker.load(VARIANT, folder, torch.device("cpu"), torch.float32)
    together = checker.flagged(pictures())
    assert sum(together) == pytest.approx(len(together) / 2, abs=2)
    assert [checker.flagged(picture[None])[0] for picture in pictures()] == together


def test_a_score_that_is_not_a_number_is_flagged(tmp_path: Path) -> None:
    folder = sd_v1_with_checker(tmp_path / "sd", NEVER)
    checker = SafetyChecker.load(VARIANT, folder, torch.device("cpu"), torch.float32)
    checker._model.visual_projection.weight.data[0, 0] = float("nan")
    assert checker.flagged(pictures()[:2]) == [True, True]


def test_weights_that_lack_a_tensor_are_refused(tmp_path: Path) -> None:
    folder = sd_v1_with_checker(tmp_path / "sd", NEVER)
    path = folder / "safety_checker/model.fp16.safetensors"
    tensors = load_file(path)
    del tensors["concept_embeds"]
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(WeightsError, match="its weights lack concept_embeds"):
        SafetyChecker.load(VARIANT, folder, torch.device("cpu"), torch.float32)


def test_a_pipeline_flags_only_where_it_is_told_to(tmp_path: Path) -> None:
    folder = sd_v1_with_checker(tmp_path / "sd", ALWAYS)
    for on in (True, False):
        pipe = Pipeline.load([VARIANT], folder, "cpu", safety_checker=on)
        pixels = draw(pipe, generation(variant=VARIANT.name, num_inference_steps=1))
        assert pipe.flagged(pixels) == [on]
        # Flagged pictures are not blackened.
        assert pixels.std() > 5


def test_a_check_that_finds_no_memory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = sd_v1_with_checker(tmp_path / "sd", NEVER)
    pipe = Pipeline.load([VARIANT], folder, "cpu", safety_checker=True)

    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(pipe._safety_checker._model.vision_model, "forward", exhausted)
    with pytest.raises(OutOfDeviceMemory, match="flagged: CUDA out of memory"):
        pipe.flagged(pictures()[:1])
