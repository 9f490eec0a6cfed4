"""The pipelines on CUDA in fp16, with each optimisation. Needs torch, diffusers, transformers.

python3 -m pytest --noconftest -W default tests/gpu
"""

import functools
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from serve.catalogue import MINIATURE
from serve.errors import NotFinite, OutOfDeviceMemory
from serve.generation import Generation, Source
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.devices import memory, resolve_device
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.trajectories import SCHEDULERS, Trajectory
from tests.determinism import drawn_elsewhere
from tests.fakes import generation
from tests.pictures import difference, draw, finish, stock_picture
from tests.safety import small_image_processor, stand_in

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# As `tests.pictures.TOLERANCE`. On a CPU, pictures in half precision are up to 0.374 from those in
# single precision; two ways to compute in half precision may be twice as far apart.
TOLERANCE = 1.0
PLAIN = Optimisations(
    channels_last=False,
    attention="default",
    compile=False,
    cuda_graphs=False,
    embedding_cache=0,
)
OPTIMISATIONS = {
    "none": PLAIN,
    "channels-last": Optimisations(attention="default", compile=False, cuda_graphs=False),
    "cudnn": Optimisations(attention="cudnn", compile=False, cuda_graphs=False),
    "flash": Optimisations(attention="flash", compile=False, cuda_graphs=False),
    "graphs": Optimisations(compile=False),
    "few-graphs": Optimisations(compile=False, recorded_images=(1, 4)),
    "compile": Optimisations(cuda_graphs=False),
    "search": Optimisations(cudnn_benchmark=True),
    "no-matmul": Optimisations(conv_1x1_as_mm=False),
    "unets-only": Optimisations(vae_decoder=False, text_encoder=False),
    "all": Optimisations(),
}
EACH = pytest.mark.parametrize("name", list(OPTIMISATIONS))


@functools.cache
def packed(name: str) -> Pipeline:
    return Pipeline.load(
        list(MINIATURE.variants.values()), WEIGHTS_DIR, "cuda", OPTIMISATIONS[name]
    )


def default_size(**changes: object) -> Generation:
    return generation(**{"width_px": 96, "height_px": 96, "guidance_scale": 2.0, **changes})


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@EACH
@pytest.mark.parametrize("variant", list(MINIATURE.variants))
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
@pytest.mark.filterwarnings("ignore")
def test_the_fp16_picture_is_that_of_stable_diffusion_pipeline(
    name: str, variant: str, scheduler: str
) -> None:
    pipe = packed(name)
    asked = default_size(
        variant=variant,
        prompt="a golden vase with different flowers",
        seeds=(2023, 4),
        num_inference_steps=12,
        scheduler=scheduler,
    )
    assert difference(draw(pipe, asked), stock_picture(pipe, asked)) <= TOLERANCE


@EACH
def test_what_was_asked_for_was_switched_on_and_timed(name: str) -> None:
    readiness, asked = packed(name).readiness, OPTIMISATIONS[name]
    assert readiness.left_off == {}
    for unet in ("unet", "unet_distilled"):
        assert any(part.startswith(f"{unet}: attention") for part in readiness.switched_on)
        assert (f"{unet}: compile" in readiness.switched_on) is (asked.compile is None)
        rows = ", ".join(str(2 * images) for images in asked.recorded_images)
        graphs = f"{unet}: CUDA graphs of {rows} rows"
        assert (graphs in readiness.switched_on) is asked.cuda_graphs
    fast_decoder = asked.vae_decoder and (asked.compile is None or asked.cuda_graphs)
    assert ("vae: compile" in readiness.switched_on) is (fast_decoder and asked.compile is None)
    recorded = "vae: CUDA graphs of 1, 2 rows" in readiness.switched_on
    assert recorded is (fast_decoder and asked.cuda_graphs)
    recorded = "text_encoder: CUDA graphs of 1 rows" in readiness.switched_on
    assert recorded is (asked.text_encoder and asked.cuda_graphs)
    for model in ("unet", "unet_distilled", "vae"):
        recorded = asked.cuda_graphs and (model != "vae" or asked.vae_decoder)
        searched = f"{model}: cuDNN benchmark" in readiness.switched_on
        assert searched is (recorded and asked.cudnn_benchmark)
    assert not torch.backends.cudnn.benchmark
    print(name, readiness)


@EACH
@pytest.mark.parametrize("scheduler", list(SCHEDULERS))
def test_no_step_waits_for_the_device(name: str, scheduler: str) -> None:
    pipe = packed(name)
    for scale in (2.0, 1.0):
        trajectories, _ = pipe.begin(
            default_size(seeds=(1, 2, 3), guidance_scale=scale, scheduler=scheduler)
        )
        pipe.step(trajectories)  # Libraries may allocate in their first call.
        with waiting_is_an_error():
            for _ in range(3):
                pipe.step(trajectories)


def test_the_mode_that_finds_waiting_does_find_it() -> None:
    number = torch.ones(1, device="cuda")
    with waiting_is_an_error(), pytest.raises(RuntimeError, match="synchronizing"):
        number.item()


def test_when_a_step_returns_the_one_before_is_done() -> None:
    pipe = packed("graphs")
    trajectories, _ = pipe.begin(default_size(seeds=tuple(range(16)), num_inference_steps=10))
    pipe.step(trajectories)  # It waits for no step of these images.
    while trajectories[0].steps_done < 10:
        before = trajectories[0].ready
        pipe.step(trajectories)
        assert before is not None
        assert before.query()


@pytest.mark.parametrize("name", ["graphs", "few-graphs", "compile", "all"])
@pytest.mark.parametrize("images", [1, 2, 3, 4, 5, 7, 8, 13, 16, 19, 40])
@pytest.mark.parametrize("scale", [2.0, 1.0], ids=["guided", "unguided"])
def test_any_number_of_images_takes_the_step_that_eager_calls_take(
    name: str, images: int, scale: float
) -> None:
    asked = default_size(seeds=tuple(range(images)), guidance_scale=scale, scheduler="ddim")
    results = []
    for pipe in (packed(name), packed("channels-last")):
        trajectories, _ = pipe.begin(asked)
        for _ in range(2):
            pipe.step(trajectories)
        results.append(torch.cat([image.latents for image in trajectories]).float().cpu())
    # Half precision has 3 digits; the latents are about 1 in size.
    assert (results[0] - results[1]).abs().max() < 0.05
    assert (results[0] - results[1]).abs().mean() < 0.005


@pytest.mark.parametrize("side", [64, 128])
def test_other_sizes_are_drawn_without_compiling(side: int) -> None:
    asked = generation(width_px=side, height_px=side, seeds=(1, 2), scheduler="euler")
    assert difference(draw(packed("all"), asked), draw(packed("channels-last"), asked)) <= TOLERANCE


def test_a_batched_picture_is_the_one_made_alone() -> None:
    pipe = packed("all")
    together, _ = pipe.begin(default_size(seeds=tuple(range(7)), num_inference_steps=12))
    finish(pipe, together)
    for seed in (0, 6):
        alone = draw(pipe, default_size(seeds=(seed,), num_inference_steps=12))
        assert difference(pipe.decode([together[seed]]), alone) <= TOLERANCE


def test_pictures_and_previews_decoded_during_steps_are_those_decoded_in_silence() -> None:
    """Ten jobs; a second thread decodes each while the first denoises the next."""
    pipe = packed("all")
    work: queue.Queue[list[Trajectory] | None] = queue.Queue()
    drawn, shown = [], []

    def decode() -> None:
        while (finished := work.get()) is not None:
            shown.append(pipe.preview(finished[0]))
            drawn.append(pipe.decode(finished))

    thread = threading.Thread(target=decode)
    thread.start()
    kept = []
    for seed in range(10):
        trajectories, _ = pipe.begin(default_size(seeds=(seed, seed + 100)))
        finish(pipe, trajectories)
        kept.append(trajectories)
        work.put(trajectories)
    work.put(None)
    thread.join()
    torch.cuda.synchronize()
    for trajectories, picture, preview in zip(kept, drawn, shown, strict=True):
        assert np.array_equal(pipe.decode(trajectories), picture)
        assert np.array_equal(pipe.preview(trajectories[0]), preview)


def test_a_device_without_memory_is_named_and_the_call_can_be_made_again() -> None:
    pipe = packed("none")
    trajectories, _ = pipe.begin(
        generation(width_px=192, height_px=192, seeds=tuple(range(64)), num_inference_steps=3)
    )
    torch.cuda.synchronize()
    pipe.free_memory()
    reserved = torch.cuda.memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((reserved + 2**20) / total)
    try:
        with pytest.raises(OutOfDeviceMemory, match=r"step: .*out of memory"):
            pipe.step(trajectories)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert all(image.steps_done == 0 for image in trajectories)
    pipe.free_memory()
    finish(pipe, trajectories[:2])
    assert pipe.decode(trajectories[:2]).std() > 5


def test_an_image_that_is_not_finite_is_named() -> None:
    pipe = packed("all")
    good, bad = pipe.begin(default_size(seeds=(1, 2)))[0]
    finish(pipe, [good, bad])
    bad.latents = bad.latents * float("inf")
    for together in ([bad], [good, bad]):
        with pytest.raises(NotFinite):
            pipe.decode(together)
    assert pipe.decode([good]).std() > 5


def test_decoding_is_sliced_by_free_memory() -> None:
    # Made now, so that it knows of all that others have recorded.
    pipe = Pipeline.load(list(MINIATURE.variants.values()), WEIGHTS_DIR, "cuda", PLAIN)
    large, tiny = (
        pipe.begin(default_size(variant=variant, width_px=192, height_px=192))[0][0]
        for variant in ("original", "distilled-tiny-vae")
    )
    pipe.free_memory()
    assert (pipe.decode_slice(large), pipe.decode_slice(tiny)) == (2, 8)
    allocated, free = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[0]
    hog = torch.empty(free - 64 * 2**20, dtype=torch.uint8, device="cuda")
    # 54 and 13.5 MiB an image, in half of 64 MiB and of what torch keeps beside them.
    assert pipe.decode_slice(large) < 2
    assert pipe.decode_slice(tiny) < 8
    del hog
    pipe.free_memory()
    assert torch.cuda.memory_allocated() == allocated


def test_where_it_is_deterministic_other_processes_draw_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As `serve.settings.forbid_chance`, which needs pydantic.
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("TORCHINDUCTOR_DETERMINISTIC", "1")
    assert drawn_elsewhere("cuda", 0) == drawn_elsewhere("cuda", 6)


def test_the_device_draws_nearly_the_cpus_picture() -> None:
    asked = default_size(seeds=(2023,), num_inference_steps=12)
    on_cpu = Pipeline.load([MINIATURE.variants["original"]], WEIGHTS_DIR, "cpu")
    # The same noise from the same CPU generator; half precision rounds differently.
    assert difference(draw(packed("all"), asked), draw(on_cpu, asked)) < 4


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("variant", ["original", "distilled-tiny-vae"])
def test_the_device_edits_nearly_as_the_cpu(variant: str, masked: bool) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    mask = np.zeros((96, 96), np.uint8)
    mask[:48] = 255
    source = Source(pixels.tobytes(), mask.tobytes() if masked else None, 0.7)
    asked = default_size(variant=variant, seeds=(5,), num_inference_steps=12, source=source)
    on_cpu = Pipeline.load([MINIATURE.variants[variant]], WEIGHTS_DIR, "cpu")
    assert difference(draw(packed("all"), asked), draw(on_cpu, asked)) < 4


def test_the_safety_checker_judges_as_on_a_cpu() -> None:
    safety = pytest.importorskip("serve.pipelines.safety", exc_type=ImportError)
    patches = np.random.default_rng(0).integers(0, 255, (8, 8, 8, 3), np.uint8)
    pictures = patches.repeat(12, axis=1).repeat(12, axis=2)
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.float16)):
        flags = []
        for threshold in (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9):
            model = stand_in(concept=threshold).to(device, dtype)
            flags += safety.SafetyChecker(model, small_image_processor()).flagged(pictures)
        found.append(flags)
    on_cpu, on_cuda = found
    assert {True, False} == set(on_cpu)
    # A score so near to its threshold that half precision decides is rare.
    assert sum(cpu != cuda for cpu, cuda in zip(on_cpu, on_cuda, strict=True)) <= 1


def test_auto_takes_cuda_in_fp16() -> None:
    device, dtype = resolve_device("auto")
    assert (device.type, dtype) == ("cuda", torch.float16)


def test_memory_counts_tensors_what_is_reserved_for_them_and_what_is_free() -> None:
    device = torch.device("cuda")
    held = torch.ones(2**28, dtype=torch.uint8, device=device)
    found = memory(device)
    assert found.allocated_bytes == torch.cuda.memory_allocated() >= 2**28
    assert found.reserved_bytes is not None
    assert found.peak_reserved_bytes is not None
    assert found.peak_reserved_bytes >= found.reserved_bytes >= found.allocated_bytes
    assert found.free_bytes
    del held
    assert memory(device).peak_allocated_bytes == found.peak_allocated_bytes
