"""Recorded calls, with a recorder that runs the call again instead of a CUDA graph."""

import itertools
from collections.abc import Callable

import pytest
import torch

from serve.pipelines.cuda_graphs import (
    Inputs,
    RecordedCall,
    Recording,
    cheapest_cover,
    cuda_graphs,
    record_sizes,
)
from serve.pipelines.optimisations import DEFAULTS
from tests.emulated_cuda import EmulatedCapture, record_again

SIZES = (2, 4, 8)
# An A100's, as published: what grows with the rows outweighs what doesn't.
SATURATED = {rows: 7.3 + 6.45 * rows / 2 for rows in (2, 4, 8, 16, 32)}
LAUNCH_BOUND = {rows: 10.0 + 0.01 * rows for rows in (2, 4, 8, 16, 32)}


def model(
    latents: torch.Tensor, timesteps: torch.Tensor, embeds: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Each row of the results depends on all arguments of its row, and on no other."""
    noise = latents * timesteps[:, None, None, None] + embeds.sum((1, 2))[:, None, None, None]
    return noise, noise.isfinite().all((1, 2, 3))


def inputs() -> Inputs:
    return Inputs(*arguments(max(SIZES)))


def arguments(rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 4, 3, 2), torch.randn(rows), torch.randn(rows, 7, 5)


def recorded(seconds: dict[int, float]) -> RecordedCall:
    times = iter([seconds[rows] for rows in sorted(seconds, reverse=True)])
    return record_sizes(model, inputs(), SIZES, record_again, lambda _: next(times))


def same(results: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> bool:
    pairs = zip(results, expected, strict=True)
    return all(torch.equal(result, other) for result, other in pairs)


@pytest.mark.parametrize("rows", range(1, 20))
@pytest.mark.parametrize("growth", [0.0, 1.0], ids=["padded", "split"])
def test_any_number_of_rows_gives_what_the_call_gives(rows: int, growth: float) -> None:
    fast = recorded({size: 1 + growth * size for size in SIZES})
    given = arguments(rows)
    assert same(fast(*given), model(*given))


def test_what_an_earlier_call_left_in_the_padding_reaches_nobody() -> None:
    fast = recorded({2: 3.0, 4: 2.0, 8: 1.0})  # Everything is padded to eight.
    poison = tuple(torch.full_like(argument, float("nan")) for argument in arguments(8))
    noise, finite = fast(*poison)
    assert noise.isnan().all()
    assert not finite.any()
    given = arguments(3)
    assert same(fast(*given), model(*given))


def test_a_result_stays_when_the_next_call_is_made() -> None:
    fast = recorded({2: 1.0, 4: 2.0, 8: 3.0})
    given = arguments(2)
    first = fast(*given)
    fast(*arguments(2))
    assert same(first, model(*given))


@pytest.mark.parametrize("seconds", [SATURATED, LAUNCH_BOUND], ids=["saturated", "launch-bound"])
def test_the_cover_is_the_cheapest_there_is(seconds: dict[int, float]) -> None:
    for rows in range(1, 25):
        cover = cheapest_cover(rows, seconds)
        assert sum(cover) >= rows > sum(cover[:-1])
        assert list(cover) == sorted(cover, reverse=True)
        others = (
            sum(seconds[size] for size in sizes)
            for count in range(1, 6)
            for sizes in itertools.combinations_with_replacement(seconds, count)
            if sum(sizes) >= rows
        )
        assert sum(seconds[size] for size in cover) == pytest.approx(min(others))


def test_five_images_are_split_where_rows_cost_and_padded_where_launches_do() -> None:
    assert cheapest_cover(10, SATURATED) == (8, 2)
    assert cheapest_cover(10, LAUNCH_BOUND) == (16,)


@pytest.mark.parametrize("images", [3, 6, 12])
def test_three_six_and_twelve_images_take_one_call_of_their_own(images: int) -> None:
    recorded = DEFAULTS.recorded_images
    for fixed_s, image_s in ((7.3, 6.45), (10.0, 0.02)):
        seconds = {2 * count: fixed_s + image_s * count for count in recorded}
        assert cheapest_cover(2 * images, seconds) == (2 * images,)


@pytest.mark.parametrize("fits", [8, 4, 2, 0])
def test_recording_goes_as_far_as_the_memory(fits: int) -> None:
    def record(call: Callable[[], tuple[torch.Tensor, ...]]) -> Recording:
        made = record_again(call)
        if len(made.outputs[0]) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return made

    if fits == 0:
        with pytest.raises(torch.OutOfMemoryError):
            record_sizes(model, inputs(), SIZES, record, lambda _: 1.0)
        return
    made = record_sizes(model, inputs(), SIZES, record, lambda _: 1.0)
    assert made.sizes == [size for size in SIZES if size <= fits]
    given = arguments(11)
    assert same(made(*given), model(*given))


def test_a_recording_that_fails_leaves_stream_and_allocator_as_they_were(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cuda = EmulatedCapture(monkeypatch)

    def call() -> tuple[torch.Tensor, ...]:
        if cuda.allocating:
            cuda.valid = False
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        return (torch.zeros(1),)

    with pytest.raises(RuntimeError, match="CUDA error"):
        cuda_graphs()(call)
    assert cuda.current is cuda.default
    assert not cuda.allocating
    assert cuda.pool_users == 0


def test_graphs_of_one_recorder_share_a_stream_and_those_of_two_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # torch ties the workspace of cuBLAS to a stream: two graphs that run at once need two.
    cuda = EmulatedCapture(monkeypatch)
    unet, decoder = cuda_graphs(), cuda_graphs()
    for record in (unet, decoder, unet):
        record(lambda: (torch.zeros(1),))
    first, other, again = cuda.captured_in
    assert first is again
    assert first is not other
    assert cuda.default not in (first, other)
