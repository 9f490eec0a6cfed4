"""What is tried to make a UNet fast, and the report; with a stand-in for the compiler."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from serve.catalogue import MINIATURE
from serve.miniature import WEIGHTS_DIR
from serve.pipelines.attention import choose_attention, plain_call
from serve.pipelines.compile import (
    MOST_ROWS,
    prepare_decoder,
    prepare_unet,
    unet_inputs,
)
from serve.pipelines.cuda_graphs import Call, Recording
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.pipelines.readiness import Readiness
from serve.pipelines.trajectories import Trajectory
from serve.pipelines.vae import pixels
from tests.emulated_cuda import prepare_as_on_cuda, record_again
from tests.fakes import generation
from tests.pictures import difference, finish


def small_unet() -> Any:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        mid_block_type=None,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=8,
        attention_head_dim=2,
        norm_num_groups=4,
    ).eval()


@pytest.fixture(scope="module")
def unet() -> Any:
    return small_unet()


def prepare(unet: Any, optimisations: Optimisations) -> tuple[Call, Readiness]:
    readiness = Readiness()
    return prepare_unet("unet", unet, (8, 8), 7, optimisations, readiness), readiness


def noise(call: Call, rows: int, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    with torch.inference_mode():
        (predicted,) = call(
            torch.randn(rows, 4, side, side, generator=generator),
            torch.linspace(1, 900, rows),
            torch.randn(rows, 7, 8, generator=generator),
        )
    return predicted


class Compiler:
    """In place of inductor: runs what dynamo has traced, with a list of what it was given."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, latents: tuple[int, ...] = (4, 8, 8)
    ) -> None:
        self.latents = latents
        self.rows: list[tuple[str, int]] = []
        torch_compile = torch.compile
        monkeypatch.setattr(
            torch,
            "compile",
            lambda module, **options: torch_compile(module, backend=self, **options),
        )

    def __call__(
        self, graph: torch.fx.GraphModule, inputs: list[Any], **_: Any
    ) -> Callable[..., Any]:
        rows = next(
            given.shape[0]
            for given in inputs
            if isinstance(given, torch.Tensor) and given.shape[1:] == self.latents
        )
        dynamic = any(isinstance(given, torch.SymInt) for given in inputs)
        self.rows.append(("dynamic" if dynamic else "fixed", rows))
        return graph.forward


def test_on_a_cpu_nothing_is_compiled_unless_it_is_asked_for(
    unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch, "compile")
    call, readiness = prepare(unet, Optimisations())
    assert torch.equal(noise(call, 3), noise(plain_call(unet, "default"), 3))
    assert readiness == Readiness()


def test_no_number_of_rows_and_no_other_size_is_compiled_once_it_is_warm(
    unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = Compiler(monkeypatch)
    # These take 16 rows or more for other convolutions than fewer; CUDA's libraries don't.
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    with torch.backends.nnpack.flags(enabled=False):
        call, readiness = prepare(unet, Optimisations(compile=True))
    # Two rows have code of their own; kernels of the other are planned for many.
    assert compiler.rows == [("fixed", 2), ("dynamic", 16)]
    assert readiness.switched_on == ["unet: compile"]
    assert readiness.seconds["unet: compile"] > 0
    plain = plain_call(unet, "default")
    for rows, side in [*((rows, 8) for rows in range(1, 97)), (1, 16), (6, 16), (70, 16)]:
        assert torch.allclose(noise(call, rows, side), noise(plain, rows, side), atol=1e-5)
    assert len(compiler.rows) == 2


def test_the_report_says_which_calls_were_recorded(
    unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(call: Callable[[], tuple[torch.Tensor, ...]]) -> Recording:
        recording = record_again(call)
        if len(recording.outputs[0]) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return recording

    prepare_as_on_cuda(monkeypatch, record)
    call, readiness = prepare(unet, Optimisations())
    assert readiness.left_off == {}
    assert readiness.switched_on[1:] == ["unet: compile", "unet: CUDA graphs of 2, 4, 6, 8 rows"]
    assert list(readiness.seconds) == ["unet: attention", "unet: compile", "unet: CUDA graphs"]
    assert torch.allclose(noise(call, 11), noise(plain_call(unet, "default"), 11), atol=1e-5)


@pytest.mark.parametrize(
    ("switches", "rows"),
    [
        ({}, "2, 4, 6, 8, 12, 16, 24, 32"),
        ({"recorded_images": (4, 1)}, "2, 8"),
        ({"deterministic": True}, "2"),  # No image shares its calls.
    ],
    ids=lambda given: str(given),
)
def test_which_calls_are_recorded_is_a_switch(
    unet: Any, switches: dict[str, Any], rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_as_on_cuda(monkeypatch)
    _, readiness = prepare(unet, Optimisations(compile=False, **switches))
    assert readiness.switched_on[-1] == f"unet: CUDA graphs of {rows} rows"


@pytest.mark.parametrize(
    ("switches", "searches"),
    [
        ({"cudnn_benchmark": True, "recorded_images": (1, 4, 3)}, [8, 6, 2]),
        ({}, []),
        ({"cudnn_benchmark": True, "cuda_graphs": False}, []),
        ({"cudnn_benchmark": True, "deterministic": True}, []),  # Nothing is chosen by timing.
    ],
    ids=["on", "off", "nothing-recorded", "deterministic"],
)
def test_cudnn_searches_before_any_other_call_and_never_later(
    unet: Any, switches: dict[str, Any], searches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, bool]] = []
    watch = unet.register_forward_pre_hook(
        lambda _, given: calls.append((len(given[0]), torch.backends.cudnn.benchmark))
    )

    def seconds(call: Callable[[], object]) -> float:
        call()
        return 1.0

    prepare_as_on_cuda(monkeypatch, seconds=seconds)
    call, readiness = prepare(unet, Optimisations(**switches))
    noise(call, 4)
    watch.remove()
    assert calls[: len(searches)] == [(rows, True) for rows in searches]
    assert len(calls) > len(searches) + 4
    assert not any(searching for _, searching in calls[len(searches) :])
    assert ("unet: cuDNN benchmark" in readiness.switched_on) is bool(searches)


def test_a_search_that_fails_is_left_off_and_ends(
    unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seconds(call: Callable[[], object]) -> float:
        if torch.backends.cudnn.benchmark:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    prepare_as_on_cuda(monkeypatch, seconds=seconds)
    _, readiness = prepare(unet, Optimisations(cudnn_benchmark=True))
    assert readiness.left_off == {"unet: cuDNN benchmark": "OutOfMemoryError: CUDA out of memory"}
    assert readiness.switched_on[-1].startswith("unet: CUDA graphs of ")
    assert not torch.backends.cudnn.benchmark


@pytest.mark.parametrize("switched_on", [True, False])
def test_what_is_compiled_for_cuda_alone_makes_matmuls_of_1x1_convolutions(
    unet: Any,
    drawn: tuple[Pipeline, list[Trajectory]],
    switched_on: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[dict[str, Any] | None] = []

    def compiler(module: Any, options: dict[str, Any] | None, **_: Any) -> Any:
        given.append(options)
        return module

    monkeypatch.setattr(torch, "compile", compiler)
    switches = Optimisations(compile=True, conv_1x1_as_mm=switched_on, cuda_graphs=False)
    prepare(unet, switches)
    assert given == [None, None]  # Few rows and many, on a CPU.
    prepare_as_on_cuda(monkeypatch, compiler=compiler)
    prepare(unet, switches)
    vae = drawn[0].components["distilled"].vae
    prepare_decoder("vae", vae, (12, 12), switches, Readiness())
    assert given[2:] == [{"conv_1x1_as_mm": True} if switched_on else None] * 3
    assert set(given[2] or ()) <= set(torch._inductor.list_options())


@pytest.fixture(scope="module")
def drawn() -> tuple[Pipeline, list[Trajectory]]:
    """Three finished images of the default size, by a pipeline without optimisations."""
    plain = Pipeline.load([MINIATURE.variants["distilled"]], WEIGHTS_DIR, "cpu")
    images, _ = plain.begin(
        generation(variant="distilled", seeds=(1, 2, 3), width_px=96, height_px=96)
    )
    finish(plain, images)
    return plain, images


def latents_of(images: list[Trajectory]) -> torch.Tensor:
    return torch.cat([image.latents for image in images])


def test_the_decoder_is_compiled_for_its_slices_only(
    drawn: tuple[Pipeline, list[Trajectory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, images = drawn
    vae, readiness = plain.components["distilled"].vae, Readiness()
    compiler = Compiler(monkeypatch, (4, 12, 12))
    prepare_as_on_cuda(monkeypatch, compiler=torch.compile)
    call = prepare_decoder("vae", vae, (12, 12), Optimisations(cuda_graphs=False), readiness)
    assert readiness.switched_on == ["vae: compile"], readiness
    assert compiler.rows == [("fixed", 1), ("fixed", 2)]
    with torch.inference_mode():
        for count, side in ((1, 12), (2, 12), (3, 12), (1, 8), (2, 16)):
            latents = latents_of(images[:count]).repeat(1, 1, 2, 2)[..., :side, :side]
            for result, expected in zip(call(latents), pixels(vae, latents), strict=True):
                assert torch.equal(result, expected)
    assert len(compiler.rows) == 2


def test_a_recorded_decoder_says_which_image_is_not_finite_whatever_pads_it(
    drawn: tuple[Pipeline, list[Trajectory]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, images = drawn
    vae, readiness = plain.components["distilled"].vae, Readiness()
    seconds = iter((1.0, 9.0))  # One image, too, takes the recording of two.
    prepare_as_on_cuda(monkeypatch, seconds=lambda _: next(seconds))
    call = prepare_decoder("vae", vae, (12, 12), Optimisations(compile=False), readiness)
    assert readiness.switched_on == ["vae: CUDA graphs of 1, 2 rows"], readiness
    bad = latents_of(images[:2]).clone()
    bad[1, 0, 0, 0] = float("nan")
    with torch.inference_mode():
        assert call(bad)[1].tolist() == [True, False]
        drawn_alone, finite = call(latents_of(images[:1]))
        assert torch.equal(drawn_alone, pixels(vae, latents_of(images[:2]))[0][:1])
    assert finite.tolist() == [True]


@pytest.mark.parametrize("switch", ["vae_decoder", "text_encoder", "deterministic", None])
def test_a_prepared_pipeline_draws_the_pictures_of_a_plain_one(
    switch: str | None,
    drawn: tuple[Pipeline, list[Trajectory]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replayed = []

    def record(call: Callable[[], tuple[torch.Tensor, ...]]) -> Recording:
        recording = record_again(call)

        def replay() -> None:
            replayed.append(tuple(recording.outputs[0].shape))
            recording.replay()

        return Recording(replay, recording.outputs)

    seconds = itertools.count(100, -1)  # Fewer rows, which come later, take less.
    prepare_as_on_cuda(monkeypatch, record, seconds=lambda _: float(next(seconds)))
    plain, images = drawn
    variant = MINIATURE.variants["distilled"]
    switches = {switch: switch == "deterministic"} if switch else {}
    try:
        prepared = Pipeline.load([variant], WEIGHTS_DIR, "cpu", Optimisations(**switches))
        assert not prepared.readiness.left_off
        job = generation(variant="distilled", seeds=(1, 2, 3), width_px=96, height_px=96)
        again, _ = prepared.begin(job)
        finish(prepared, again)
        for count in (1, 2, 3):
            assert difference(prepared.decode(again[:count]), plain.decode(images[:count])) <= 0.1
        assert difference(prepared.preview(again[0]), plain.preview(images[0])) <= 0.1
    finally:
        torch.use_deterministic_algorithms(False)
    slices = {shape[0] for shape in replayed if shape[1:] == (96, 96, 3)}
    assert slices == {"deterministic": {1}, "vae_decoder": set()}.get(switch, {1, 2})
    # A prompt and an empty one.
    prompts = sum(shape[:2] == (1, 77) for shape in replayed)
    assert prompts == (0 if switch == "text_encoder" else 2)


@pytest.mark.parametrize("fastest", ["default", "cudnn", "flash"])
def test_the_fastest_attention_is_kept(unet: Any, fastest: str) -> None:
    inputs = unet_inputs(unet, MOST_ROWS, (8, 8), 7)
    order = iter(("default", "cudnn", "flash"))
    timed = []

    def time_s(call: Callable[[], object]) -> float:
        with torch.inference_mode():
            call()  # Every candidate must have a kernel for every shape.
        timed.append(next(order))
        return 1.0 if timed[-1] == fastest else 2.0

    assert choose_attention(unet, inputs, "auto", time_s) == fastest
    assert timed == ["default", "cudnn", "flash"]
    assert choose_attention(unet, inputs, "flash", time_s) == "flash"
    assert len(timed) == 3


@pytest.mark.parametrize("wanted", ["auto", "cudnn"])
def test_cudnns_attention_serves_what_it_was_measured_with_unless_it_was_asked_for(
    unet: Any, wanted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed = []
    watch = unet.register_forward_pre_hook(
        lambda *_: allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    seconds = iter((2.0, 1.0, 2.0))  # cuDNN's is the fastest.
    prepare_as_on_cuda(monkeypatch, seconds=lambda _: next(seconds))
    call, _ = prepare(unet, Optimisations(attention=wanted, cuda_graphs=False))
    allowed.clear()
    for rows, side in ((2, 8), (6, 8), (1, 8), (6, 16)):
        noise(call, rows, side)
    watch.remove()
    assert allowed == [True, True, wanted == "cudnn", wanted == "cudnn"]


def test_an_attention_that_fails_on_the_real_unet_is_passed_over(unet: Any) -> None:
    seconds = iter((2.0, None, 1.0))

    def time_s(call: Callable[[], object]) -> float:
        if (took := next(seconds)) is None:
            raise RuntimeError("cuDNN: no valid execution plan")
        return took

    inputs = unet_inputs(unet, MOST_ROWS, (8, 8), 7)
    assert choose_attention(unet, inputs, "auto", time_s) == "flash"


def test_the_attention_of_others_is_as_before_once_a_call_returns(unet: Any) -> None:
    before = torch._C._get_sdp_priority_order(), torch.backends.cuda.cudnn_sdp_enabled()
    for attention in ("cudnn", "flash"):
        assert torch.allclose(
            noise(plain_call(unet, attention), 2),  # type: ignore[arg-type]
            noise(plain_call(unet, "default"), 2),
            atol=1e-5,
        )
        after = torch._C._get_sdp_priority_order(), torch.backends.cuda.cudnn_sdp_enabled()
        assert after == before


@pytest.mark.parametrize("channels_last", [True, False])
def test_channels_last_is_a_switch(channels_last: bool) -> None:
    pipe = Pipeline.load(
        [MINIATURE.variants["distilled"]],
        WEIGHTS_DIR,
        "cpu",
        Optimisations(channels_last=channels_last),
    )
    parts = pipe.components["distilled"]
    for model in (parts.unet, parts.vae, parts.preview_vae):
        weight = next(w for w in model.parameters() if w.dim() == 4 and w.shape[-1] == 3)
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
    assert list(pipe.readiness.seconds) == ["load"]


@pytest.mark.parametrize(
    "changes",
    [
        {"embedding_cache": -1},
        {"cpu_threads": 0},
        {"recorded_images": ()},
        {"recorded_images": (1, 17)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_values_without_a_meaning_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(changes))):
        Optimisations(**changes)


def test_the_threads_of_a_cpu_are_set_only_when_told() -> None:
    before = torch.get_num_threads()
    try:
        for threads, expected in ((None, 1), (2, 2)):
            torch.set_num_threads(1)
            Pipeline.load(
                [MINIATURE.variants["distilled"]],
                WEIGHTS_DIR,
                "cpu",
                Optimisations(cpu_threads=threads),
            )
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
