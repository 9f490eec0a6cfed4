"""Makes a replica's models fast before the first request, and reports which optimisations are on.

On CUDA: channels_last, the fastest attention, torch.compile, and CUDA graphs for calls of 1, 2, 3,
4, 6, 8, 12 and 16 images of the family's default size with guidance; calls with another number of
images are split and padded. The KL decoder is compiled and recorded for slices of 1 and 2, the text
encoder recorded for one prompt. Other sizes run eagerly, with FlashAttention: each would need
minutes of compiling and its own memory.
On a CPU: channels_last, and torch.compile if configured.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from .attention import choose_attention, plain_call
from .components import Model, TextEncoder, UNet, Vae
from .cuda_graphs import Call, Inputs, cuda_graphs, record_sizes
from .devices import measuring
from .optimisations import Attention, Optimisations
from .readiness import Readiness
from .vae import MOST_AT_ONCE_ON_CUDA, pixels

CompilerOptions = dict[str, str | int | bool | Callable[..., Any]] | None

ROWS_OF_ONE_IMAGE = 2  # With guidance.
MOST_ROWS = 32  # Of one call: 16 images with guidance.
# The compiler plans kernels for the first; the others show that it needn't compile again.
_DYNAMIC_ROWS = (16, 4, 8, 32)


def use_channels_last(models: Iterable[Model]) -> None:
    """Lay weights out for fast convolutions, in place."""
    for model in models:
        # CPU seconds against the default: steps 0.94 to 1.01, KL decode 0.93 to 1.02, tiny 0.91.
        model.to(memory_format=torch.channels_last)


@torch.inference_mode()
def prepare_unet(
    name: str,
    unet: UNet,
    size: tuple[int, int],
    tokens: int,
    optimisations: Optimisations,
    readiness: Readiness,
) -> Call:
    """A UNet's fastest call, latents, timesteps and embeddings to noise, tried and warm.

    Args:
        name: of the UNet, in the report.
        unet: on its device, in its final memory layout.
        size: height and width of the latents of the family's default size.
        tokens: of the text encoder.
        optimisations: what to try.
        readiness: the report to add to.
    """
    cuda = on_cuda(unet)
    compiling = cuda if optimisations.compile is None else optimisations.compile
    if not cuda and not compiling:
        return plain_call(unet, "default")
    inputs = unet_inputs(unet, MOST_ROWS, size, tokens)
    images = (1,) if optimisations.deterministic else optimisations.recorded_images
    rows = [ROWS_OF_ONE_IMAGE * count for count in images]
    attention: Attention = "default"
    wanted = optimisations.attention
    if optimisations.deterministic and wanted == "auto":
        wanted = "default"  # Two processes that time kernels may choose different ones.
    if cuda:
        _search(name, plain_call(unet, "default"), inputs, rows, optimisations, readiness)
        chosen = readiness.attempt(
            f"{name}: attention", partial(choose_attention, unet, inputs, wanted, device_seconds)
        )
        if chosen is not None:
            attention = chosen
            readiness.switched_on.append(f"{name}: attention {attention}")
    fast = plain_call(unet, attention)
    # cuDNN's, which may be fastest, plans anew for each shape, up to a second on the steps' thread.
    others = plain_call(unet, "flash") if cuda and wanted == "auto" else fast
    if compiling:
        options = compiler_options(optimisations) if cuda else None
        work = partial(compile_unet, unet, others, attention, inputs, options)
        fast = _compiled(name, fast, work, readiness)
    if cuda and optimisations.cuda_graphs:
        fast = _recorded(name, fast, inputs, rows, readiness)
    return for_size(size, fast, others)


@torch.inference_mode()
def prepare_decoder(
    name: str,
    vae: Vae,
    size: tuple[int, int],
    optimisations: Optimisations,
    readiness: Readiness,
) -> Call:
    """A VAE's fastest call, latents to `vae.pixels`, tried and warm; a plain one of the tiny VAE.

    See `prepare_unet`. Its graphs may be replayed beside those of UNets.
    """
    plain = partial(pixels, vae)
    # The tiny one would need a recording for each slice of up to eight, for few FLOPs.
    if not (on_cuda(vae) and optimisations.vae_decoder and isinstance(vae, AutoencoderKL)):
        return plain
    most = 1 if optimisations.deterministic else MOST_AT_ONCE_ON_CUDA[AutoencoderKL]
    images = range(1, most + 1)
    shape = most, vae.config.latent_channels, *size
    inputs = Inputs(torch.randn(shape, device=vae.device, dtype=vae.dtype))
    fast: Call = plain
    _search(name, plain, inputs, images, optimisations, readiness)
    if optimisations.compile is not False:
        work = partial(compile_decoder, vae, images, inputs, compiler_options(optimisations))
        fast = _compiled(name, fast, work, readiness)
    if optimisations.cuda_graphs:
        fast = _recorded(name, fast, inputs, images, readiness)
    return for_size(size, fast, plain)


@torch.inference_mode()
def prepare_text_encoder(
    name: str,
    model: TextEncoder,
    tokens: int,
    optimisations: Optimisations,
    readiness: Readiness,
) -> Callable[[torch.Tensor], Sequence[torch.Tensor]]:
    """A text encoder's fastest call: token ids `(1, tokens)` to hidden states, its first result."""
    if not (on_cuda(model) and optimisations.text_encoder and optimisations.cuda_graphs):
        return model

    def states(ids: torch.Tensor) -> tuple[torch.Tensor]:
        return (model(ids)[0],)

    inputs = Inputs(torch.zeros((1, tokens), dtype=torch.int64, device=model.device))
    return _recorded(name, states, inputs, (1,), readiness)


def on_cuda(model: Model) -> bool:
    """Whether a model is on CUDA."""
    return model.device.type == "cuda"


def unet_inputs(unet: UNet, rows: int, size: tuple[int, int], tokens: int) -> Inputs:
    """Buffers for a UNet's calls, filled with random values: zeros would distort timings."""
    device, dtype, config = unet.device, unet.dtype, unet.config
    return Inputs(
        torch.randn(rows, config.in_channels, *size, device=device, dtype=dtype),
        torch.full((rows,), 500.0, device=device),
        torch.randn(rows, tokens, config.cross_attention_dim, device=device, dtype=dtype),
    )


def _search(
    name: str,
    call: Call,
    inputs: Inputs,
    rows: Sequence[int],
    optimisations: Optimisations,
    readiness: Readiness,
) -> None:
    """Let cuDNN search for the fastest kernels of a call that will be recorded.

    Before any other call of these shapes: torch keeps its first choice for a shape, one for each
    thread, whatever the process-wide flag says later (`benchmark_cache` in ATen's `Conv_v8.cpp`).
    So the recordings of this thread have what was found, and no request searches.
    """
    if (
        optimisations.deterministic
        or not optimisations.cuda_graphs
        or not optimisations.cudnn_benchmark
    ):
        return

    def search() -> None:
        cudnn, before = torch.backends.cudnn, torch.backends.cudnn.benchmark
        cudnn.benchmark = True
        try:
            for count in sorted(rows, reverse=True):
                device_seconds(partial(call, *inputs.first(count)))
        finally:
            cudnn.benchmark = before

    part = f"{name}: cuDNN benchmark"
    readiness.attempt(part, search)
    if part not in readiness.left_off:
        readiness.switched_on.append(part)


def _compiled(name: str, call: Call, work: Callable[[], Call], readiness: Readiness) -> Call:
    """What compiling makes of the call; itself if it can't be."""
    part = f"{name}: compile"
    compiled = readiness.attempt(part, work)
    if compiled is None:
        return call
    readiness.switched_on.append(part)
    return compiled


def _recorded(
    name: str, call: Call, inputs: Inputs, rows: Sequence[int], readiness: Readiness
) -> Call:
    """The call recorded with these numbers of rows; itself if it can't be."""
    part = f"{name}: CUDA graphs"
    recorded = readiness.attempt(
        part, lambda: record_sizes(call, inputs, rows, cuda_graphs(), device_seconds)
    )
    if recorded is None:
        return call
    sizes = ", ".join(map(str, recorded.sizes))
    readiness.switched_on.append(f"{part} of {sizes} rows")
    return recorded


def for_size(size: tuple[int, int], fast: Call, others: Call) -> Call:
    """One call for latents of this height and width, another for all other sizes."""

    def call(latents: torch.Tensor, *more: torch.Tensor) -> tuple[torch.Tensor, ...]:
        chosen = fast if latents.shape[2:] == size else others
        return chosen(latents, *more)

    return call


def compiler_options(optimisations: Optimisations) -> CompilerOptions:
    """Inductor's options of what is compiled for CUDA, and of nothing else in this process."""
    return {"conv_1x1_as_mm": True} if optimisations.conv_1x1_as_mm else None


def compile_unet(
    unet: UNet, others: Call, attention: Attention, inputs: Inputs, options: CompilerOptions
) -> Call:
    """A compiled call for any number of rows, warm.

    The rows of one image have code of their own: kernels planned for so few are slow with many, and
    those planned for many with few. For all others the number of rows is a dynamic dimension, and
    more than were tried are split, since guards of diffusers' UNet would compile anew from 64.
    """
    # What `torch.compile` returns keeps the module's attributes.
    few = plain_call(cast("UNet", torch.compile(unet, dynamic=False, options=options)), attention)
    many = plain_call(cast("UNet", torch.compile(unet, options=options)), attention)
    few(*inputs.first(ROWS_OF_ONE_IMAGE))
    for rows in _DYNAMIC_ROWS:
        arguments = inputs.first(rows)
        for argument in arguments:
            torch._dynamo.maybe_mark_dynamic(argument, 0)
        many(*arguments)

    def call(*arguments: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = len(arguments[0])
        if rows > MOST_ROWS:
            calls = math.ceil(rows / MOST_ROWS)
            parts = (argument.tensor_split(calls) for argument in arguments)
            return (torch.cat([call(*part)[0] for part in zip(*parts, strict=True)]),)
        # A single row would be compiled anew, in the middle of a request.
        chosen = {1: others, ROWS_OF_ONE_IMAGE: few}.get(rows, many)
        return chosen(*arguments)

    return call


def compile_decoder(
    vae: Vae, images: Sequence[int], inputs: Inputs, options: CompilerOptions
) -> Call:
    """A compiled call for these numbers of images, warm, each with code of its own."""
    plain = partial(pixels, vae)
    compiled = partial(torch.compile(pixels, dynamic=False, options=options), vae)
    for count in images:
        compiled(*inputs.first(count))

    def call(latents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # Another number or layout would be compiled anew, in the middle of a request.
        return (compiled if len(latents) in images else plain)(latents.contiguous())

    return call


def device_seconds(call: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of a call on a CUDA device, after one that warms up: the fastest of several.

    Neighbours on the same GPU only add to it.
    """
    seconds = []
    with measuring(torch.device("cuda")):
        for _ in range(1 + repeats):
            started_s = time.perf_counter()
            call()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started_s)
    return min(seconds[1:])
