"""A picture of ours is the picture of `StableDiffusionPipeline`, on the shipped weights."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from serve.catalogue import MINIATURE
from serve.errors import DeviceUnavailable, NotFinite, OutOfDeviceMemory
from serve.generation import Generation, SchedulerName
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.devices import resolve_device
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.trajectories import SCHEDULERS, Trajectory
from serve.pipelines.vae import Decoder
from serve.settings import forbid_chance
from serve.variants import Variant
from tests.determinism import drawn_elsewhere
from tests.fakes import generation
from tests.pictures import TOLERANCE, difference, draw, finish, stock_picture, unfinished


@functools.cache
def packed() -> Pipeline:
    torch.set_num_threads(1)
    return Pipeline.load(list(MINIATURE.variants.values()), WEIGHTS_DIR, "cpu")


def begin(asked: Generation) -> list[Trajectory]:
    return packed().begin(asked)[0]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", MINIATURE.default_variants)
@pytest.mark.parametrize(
    ("scheduler", "steps", "guidance_scale", "negative_prompt"),
    [
        pytest.param("pndm", 12, 4.0, "", id="pndm"),
        pytest.param("pndm", 1, 4.0, "", id="pndm-one-step"),
        pytest.param("pndm", 2, 7.5, "a golden vase", id="pndm-two-steps"),
        pytest.param("ddim", 6, 3.0, "a blue circle", id="ddim"),
        pytest.param("dpm++", 5, 7.5, "red", id="dpm++"),
        pytest.param("dpm++-karras", 6, 3.0, "", id="dpm++-karras"),
        pytest.param("euler", 5, 2.0, "", id="euler"),
        pytest.param("euler-a", 6, 2.0, "", id="euler-a"),
        pytest.param("unipc", 6, 3.0, "red", id="unipc"),
        pytest.param("lcm", 4, 1.0, "", id="lcm"),
        pytest.param("lcm", 3, 1.5, "a blue circle", id="lcm-with-guidance"),
        pytest.param("ddim", 4, 1.0, "red", id="guidance-off-at-1"),
        pytest.param("euler", 3, 0.0, "", id="guidance-off-at-0"),
    ],
)
def test_the_picture_is_that_of_stable_diffusion_pipeline(
    variant: str,
    scheduler: SchedulerName,
    steps: int,
    guidance_scale: float,
    negative_prompt: str,
) -> None:
    asked = generation(
        variant=variant,
        prompt="a golden vase with different flowers",
        negative_prompt=negative_prompt,
        seeds=(2023, 4),
        width_px=96,
        height_px=80,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        scheduler=scheduler,
    )
    expected = stock_picture(packed(), asked)
    assert expected.std() > 5  # Two blank pictures would agree, too.
    assert difference(draw(packed(), asked), expected) <= TOLERANCE


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("variant", [one for one in MINIATURE.variants.values() if one.few_step])
@pytest.mark.parametrize("changes", [{}, {"guidance_scale": 2.0, "steps": 8}], ids=["own", "most"])
def test_a_few_step_picture_is_that_of_stable_diffusion_pipeline(
    variant: Variant, changes: dict[str, Any]
) -> None:
    asked = variant.generation("a golden vase with different flowers", [2023, 4], **changes)
    expected = stock_picture(packed(), asked)
    assert expected.std() > 5
    assert difference(draw(packed(), asked), expected) <= TOLERANCE


MIX = [
    generation(seeds=(1,), num_inference_steps=4, guidance_scale=2.0),
    generation(seeds=(2,), num_inference_steps=9, guidance_scale=7.0, scheduler="euler"),
    generation(seeds=(3,), num_inference_steps=6, scheduler="dpm++", negative_prompt="red"),
    generation(seeds=(4,), num_inference_steps=7, scheduler="ddim", guidance_scale=1.0),
    generation(seeds=(5,), num_inference_steps=5, guidance_scale=0.0, previews=2),
    generation(seeds=(6,), num_inference_steps=5, width_px=96, scheduler="euler", previews=3),
    generation(seeds=(7,), num_inference_steps=4, scheduler="lcm", guidance_scale=1.0, previews=1),
    generation(seeds=(8,), num_inference_steps=6, scheduler="unipc"),
    generation(seeds=(9,), num_inference_steps=5, scheduler="euler-a"),
    generation(seeds=(10,), num_inference_steps=5, scheduler="dpm++-karras"),
]


def in_turns(pipe: Pipeline, trajectories: list[Trajectory]) -> Iterator[None]:
    """Advance them a group at a time, as an engine does; one yield for each UNet call."""
    while left := unfinished(trajectories):
        for group in dict.fromkeys(image.group for image in left):
            pipe.step([image for image in left if image.group == group])
            yield


def test_a_picture_does_not_depend_on_what_shares_its_calls() -> None:
    """Variants, steps, guidance, schedulers, sizes and previews of all kinds, in one go."""
    asked = [replace(job, variant=variant) for variant in MINIATURE.variants for job in MIX]
    begun = [begin(job)[0] for job in asked]
    plans = [packed().plan(job) for job in asked]
    for _ in in_turns(packed(), begun):
        for image, plan in zip(begun, plans, strict=True):
            if image.steps_done in plan.previews_at:
                packed().preview(image)
    for group in dict.fromkeys(image.decode_group for image in begun):
        members = [index for index, image in enumerate(begun) if image.decode_group == group]
        pictures = packed().decode([begun[index] for index in members])
        for index, picture in zip(members, pictures, strict=True):
            assert difference(picture, draw(packed(), asked[index])[0]) <= TOLERANCE


def test_variants_with_the_same_unet_share_its_calls_and_each_decodes_its_own() -> None:
    asked = [
        generation(variant=name, seeds=(8,), num_inference_steps=6)
        for name in ("distilled", "distilled-tiny-vae")
    ]
    kl, tiny = (begin(job)[0] for job in asked)
    assert len(list(in_turns(packed(), [kl, tiny]))) == 7
    assert torch.equal(kl.latents, tiny.latents)
    assert kl.decode_group != tiny.decode_group
    assert not np.array_equal(packed().decode([kl]), packed().decode([tiny]))


def test_what_variants_share_is_loaded_once() -> None:
    original, distilled, tiny, smaller, *few_step = packed().components.values()
    assert original.text_encoder is distilled.text_encoder is tiny.text_encoder
    assert original.unet is not distilled.unet is tiny.unet
    assert distilled.unet is not smaller.unet is not original.unet
    assert original.vae is distilled.vae is smaller.vae is not tiny.vae
    assert original.preview_vae is distilled.preview_vae is tiny.vae
    teacher, student, student_tiny = few_step
    assert original.unet is not teacher.unet is not student.unet is student_tiny.unet
    assert original.vae is teacher.vae is student.vae is not student_tiny.vae is tiny.vae


def test_groups_are_what_can_share_a_call() -> None:
    def group(**changes: object) -> object:
        return begin(generation(**changes))[0].group

    shared = group()
    for same in ({"scheduler": "euler"}, {"num_inference_steps": 9}, {"guidance_scale": 7.0}):
        assert group(**same) == shared
    for other in ({"guidance_scale": 1.0}, {"width_px": 96}, {"variant": "distilled"}):
        assert group(**other) != shared


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        pytest.param("prompt", {"prompt": "star " * 100}, id="prompt"),
        pytest.param("negative_prompt", {"negative_prompt": "star " * 100}, id="negative"),
    ],
)
def test_text_beyond_the_tokenizers_limit_is_truncated_with_a_warning_every_time(
    field: str, changes: dict[str, object]
) -> None:
    assert packed().begin(generation())[1] == ()
    for _ in ("computed", "cached"):
        _, warnings = packed().begin(generation(**changes))
        assert len(warnings) == 1
        assert warnings[0].startswith(f"{field}: ")
        assert "cut to the first 77" in warnings[0]


def test_a_cached_prompt_draws_the_same_bytes() -> None:
    cached = Pipeline.load([MINIATURE.variants["distilled"]], WEIGHTS_DIR, "cpu")
    uncached = Pipeline.load(
        [MINIATURE.variants["distilled"]], WEIGHTS_DIR, "cpu", Optimisations(embedding_cache=0)
    )
    asked = generation(variant="distilled", num_inference_steps=3)
    pictures = [draw(pipe, asked) for pipe in (cached, cached, uncached, uncached)]
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)
    # A prompt and an empty negative prompt each time.
    assert cached.prompt_lookups == (2, 2)
    assert uncached.prompt_lookups == (0, 4)


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_a_late_preview_is_nearer_to_the_picture_than_an_early_one(
    scheduler: SchedulerName,
) -> None:
    for seed in (1, 2):
        asked = generation(
            prompt="a red star on a yellow background",
            seeds=(seed,),
            width_px=96,
            height_px=96,
            num_inference_steps=20,
            guidance_scale=2.0,
            scheduler=scheduler,
            previews=3,
        )
        (image,) = begin(asked)
        previews = [
            packed().preview(image)
            for _ in in_turns(packed(), [image])
            if image.steps_done in packed().plan(asked).previews_at
        ]
        picture = packed().decode([image])[0]
        early, middle, late = (difference(preview, picture) for preview in previews)
        assert early > middle > late
        # Not the noisy latents: halfway through, those are far from any picture.
        assert late < 6


def test_a_preview_is_decoded_by_the_tiny_vae_and_does_not_change_the_picture() -> None:
    asked = generation(seeds=(3,), num_inference_steps=6)
    (shown,), (plain,) = begin(asked), begin(asked)
    for _ in range(shown.total_steps):
        packed().step([shown])
        packed().step([plain])
        assert packed().preview(shown).shape == (64, 64, 3)
    assert np.array_equal(packed().decode([shown]), packed().decode([plain]))
    assert shown.prediction is not None
    tiny = replace(
        shown,
        variant=MINIATURE.variants["distilled-tiny-vae"],
        latents=shown.estimate(shown.prediction),
    )
    assert np.array_equal(packed().preview(shown), packed().decode([tiny])[0])


def test_without_a_vae_for_previews_there_are_none() -> None:
    bare = replace(MINIATURE.variants["distilled"], preview_vae=None)
    pipe = Pipeline.load([bare], WEIGHTS_DIR, "cpu")
    asked = generation(variant="distilled", num_inference_steps=10, previews=3)
    assert packed().plan(asked).previews_at == (2, 5, 8)
    assert pipe.plan(asked).previews_at == ()
    with pytest.raises(ValueError, match="no VAE for previews"):
        pipe.preview(pipe.begin(asked)[0][0])


def test_on_a_cpu_small_pictures_are_decoded_four_at_a_time() -> None:
    sizes = {
        side: packed().decode_slice(begin(generation(width_px=side, height_px=side))[0])
        for side in (64, 96, 128, 192)
    }
    assert sizes == {64: 8, 96: 4, 128: 2, 192: 1}


@pytest.mark.parametrize(("free_gib", "expected"), [(0.2, (1, 1)), (0.5, (1, 3)), (80, (2, 8))])
def test_on_a_gpu_slices_fit_into_what_recorded_calls_leave_free(
    free_gib: float, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    segments = [
        {"segment_pool_id": (0, 0), "total_size": 1.5 * 2**30, "allocated_size": 1.4 * 2**30},
        {"segment_pool_id": (0, 1), "total_size": 2.0 * 2**30, "allocated_size": 0.1 * 2**30},
    ]
    for name, figure in {
        "memory_snapshot": segments,
        "mem_get_info": (free_gib * 2**30, 80 * 2**30),
        "memory_reserved": 3.5 * 2**30,
        "memory_allocated": 1.5 * 2**30,
        "Stream": None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, figure=figure: figure)
    decoder = Decoder(torch.device("cuda"))
    (image,) = begin(generation(width_px=512, height_px=512))
    kl, tiny = (packed().components[name].vae for name in ("distilled", "distilled-tiny-vae"))
    assert (decoder.slice_size(kl, image), decoder.slice_size(tiny, image)) == expected


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_image_that_is_not_finite_is_named_alone_and_among_others(value: float) -> None:
    good, bad = (begin(generation(seeds=(seed,), num_inference_steps=1))[0] for seed in (1, 2))
    finish(packed(), [good, bad])
    expected = packed().decode([good])
    bad.latents = bad.latents.clone()
    bad.latents[0, 0, 0, 0] = value
    for together in ([bad], [good, bad]):
        with pytest.raises(NotFinite, match="not a number"):
            packed().decode(together)
    assert np.array_equal(packed().decode([good]), expected)


class Exhausted:
    """Stands in for a function of torch's and finds no memory from the `after`-th call on."""

    def __init__(self, real: Callable[..., object], after: int = 0) -> None:
        self.real = real
        self.left = after

    def __call__(self, *args: object, **kwargs: object) -> object:
        self.left -= 1
        if self.left < 0:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried\nmore lines")
        return self.real(*args, **kwargs)


def test_a_device_without_memory_is_named_by_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = Pipeline.load([MINIATURE.variants["distilled"]], WEIGHTS_DIR, "cpu")
    asked = generation(variant="distilled")
    (image,), _ = pipe.begin(asked)
    parts = pipe.components["distilled"]
    for model in (parts.text_encoder, parts.unet, parts.vae.decoder, parts.preview_vae.decoder):
        monkeypatch.setattr(model, "forward", Exhausted(model.forward))
    other = replace(asked, prompt="not cached")
    for call in (
        lambda: pipe.begin(other),
        lambda: pipe.step([image]),
        lambda: pipe.decode([image]),
        lambda: pipe.preview(image),
    ):
        with pytest.raises(OutOfDeviceMemory, match=r"CUDA out of memory. Tried$") as caught:
            call()
        # Nor does it hold the failed call's tensors.
        assert caught.value.__context__ is None


@pytest.fixture
def deterministic() -> Iterator[Pipeline]:
    every = list(MINIATURE.variants.values())
    yield Pipeline.load(every, WEIGHTS_DIR, "cpu", Optimisations(deterministic=True))
    torch.use_deterministic_algorithms(False)


def test_where_it_is_deterministic_a_picture_is_the_same_bytes_in_any_company(
    deterministic: Pipeline,
) -> None:
    asked = [replace(job, variant=variant) for variant in MINIATURE.variants for job in MIX]
    together = [deterministic.begin(job)[0][0] for job in asked]
    assert list(in_turns(deterministic, together))
    for image, job in zip(together, asked, strict=True):
        assert deterministic.decode_slice(image) == 1
        assert np.array_equal(deterministic.decode([image]), draw(deterministic, job))


@pytest.mark.thorough
def test_where_it_is_deterministic_other_processes_draw_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "TORCHINDUCTOR_DETERMINISTIC"):
        monkeypatch.setenv(name, "")  # So that what is set now is taken back.
    forbid_chance()
    hashes = [drawn_elsewhere("cpu", neighbours) for neighbours in (0, 6)]
    assert len(hashes[0].strip()) == 64
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_step_that_fails_leaves_those_that_have_not_moved_as_they_were(
    scheduler: SchedulerName, steps_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = generation(seeds=(1, 2), num_inference_steps=6, scheduler=scheduler)
    expected = draw(packed(), asked)
    trajectories = begin(asked)
    for _ in range(steps_before):
        packed().step(trajectories)
    # First in the UNet, then in the second image's scheduler, which has begun to change by then.
    unet = packed().components["original"].unet
    with monkeypatch.context() as patch:
        patch.setattr(unet, "forward", Exhausted(unet.forward))
        with pytest.raises(OutOfDeviceMemory):
            packed().step(trajectories)
    assert [image.steps_done for image in trajectories] == [steps_before] * 2
    with monkeypatch.context() as patch:
        patch.setattr(packed()._clock, "mark", Exhausted(packed()._clock.mark, after=1))
        with pytest.raises(OutOfDeviceMemory):
            packed().step(trajectories)
    assert [image.steps_done for image in trajectories] == [steps_before + 1, steps_before]
    finish(packed(), trajectories)
    assert difference(packed().decode(trajectories), expected) <= TOLERANCE


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_missing_is_an_error_only_when_asked_for_by_name() -> None:
    assert resolve_device("auto") == (torch.device("cpu"), torch.float32)
    with pytest.raises(DeviceUnavailable, match="device: 'cuda'"):
        resolve_device("cuda")


def test_memory_is_what_linux_says_of_the_process_and_its_peak_includes_what_is_gone() -> None:
    before = packed().info()
    assert before.device.startswith("CPU")
    assert before.memory.allocated_bytes is None
    if before.memory.rss_bytes is None or before.memory.peak_rss_bytes is None:
        pytest.skip("this system has no /proc/self/status with VmRSS and VmHWM")
    assert before.memory.rss_bytes == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    more = 2**26
    # Written, so it is resident.
    held = np.ones(before.memory.peak_rss_bytes - before.memory.rss_bytes + more, np.uint8)
    del held
    after = packed().info().memory
    assert after.rss_bytes is not None
    assert after.peak_rss_bytes is not None
    assert after.peak_rss_bytes >= before.memory.peak_rss_bytes + more // 2
    assert after.rss_bytes <= after.peak_rss_bytes - more // 2
