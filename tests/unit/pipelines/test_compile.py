"""What is tried to make a UNet fast, and the report; with a stand-in for the compiler."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from serve.miniature import WEIGHTS_DIR
from serve.pipelines.compile import (
    MOST_ROWS,
    Readiness,
    choose_attention,
    plain_call,
    prepare_unet,
)
from serve.pipelines.cuda_graphs import Inputs, Recording, UNetCall
from serve.pipelines.optimisations import Optimisations
from serve.pipelines.pipeline import Pipeline
from serve.variants import MINIATURE
from tests.emulated_cuda import OnCuda, prepare_as_on_cuda, record_again


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


def prepare(unet: Any, optimisations: Optimisations) -> tuple[UNetCall, Readiness]:
    readiness = Readiness()
    return prepare_unet("unet", unet, (8, 8), 7, optimisations, readiness), readiness


def noise(call: UNetCall, rows: int, side: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    with torch.inference_mode():
        return call(
            torch.randn(rows, 4, side, side, generator=generator),
            torch.linspace(1, 900, rows),
            torch.randn(rows, 7, 8, generator=generator),
        )


class Compiler:
    """In place of inductor: runs what dynamo has traced, with a list of what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows: list[tuple[str, int]] = []
        torch_compile = torch.compile
        monkeypatch.setattr(
            torch,
            "compile",
            lambda module, **options: torch_compile(module, backend=self, **options),
        )

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        rows = next(given.shape[0] for given in inputs if is_latents(given))
        dynamic = any(isinstance(given, torch.SymInt) for given in inputs)
        self.rows.append(("dynamic" if dynamic else "fixed", rows))
        return graph.forward


def is_latents(given: Any) -> bool:
    return isinstance(given, torch.Tensor) and given.shape[1:] == (4, 8, 8)


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
    def record(call: Callable[[], torch.Tensor]) -> Recording:
        recording = record_again(call)
        if len(recording.output) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return recording

    prepare_as_on_cuda(monkeypatch, record)
    call, readiness = prepare(OnCuda(unet), Optimisations())
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
    _, readiness = prepare(OnCuda(unet), Optimisations(compile=False, **switches))
    assert readiness.switched_on[-1] == f"unet: CUDA graphs of {rows} rows"


@pytest.mark.parametrize("fastest", ["default", "cudnn", "flash"])
def test_the_fastest_attention_is_kept(unet: Any, fastest: str) -> None:
    inputs = Inputs.random(unet, MOST_ROWS, (8, 8), 7)
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

    class Watched(OnCuda):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
            return super().__call__(*args, **kwargs)

    seconds = iter((2.0, 1.0, 2.0))  # cuDNN's is the fastest.
    prepare_as_on_cuda(monkeypatch, seconds=lambda _: next(seconds))
    call, _ = prepare(Watched(unet), Optimisations(attention=wanted, cuda_graphs=False))
    allowed.clear()
    for rows, side in ((2, 8), (6, 8), (1, 8), (6, 16)):
        noise(call, rows, side)
    assert allowed == [True, True, wanted == "cudnn", wanted == "cudnn"]


def test_an_attention_that_fails_on_the_real_unet_is_passed_over(unet: Any) -> None:
    seconds = iter((2.0, None, 1.0))

    def time_s(call: Callable[[], object]) -> float:
        if (took := next(seconds)) is None:
            raise RuntimeError("cuDNN: no valid execution plan")
        return took

    inputs = Inputs.random(unet, MOST_ROWS, (8, 8), 7)
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
