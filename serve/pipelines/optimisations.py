"""The optimisations of a pipeline, each with a switch; and determinism, which costs speed.

Plain data, so that configuring them needs no torch.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Attention = Literal["auto", "default", "cudnn", "flash"]


@dataclass(frozen=True, slots=True)
class Optimisations:
    """Which optimisations a pipeline uses."""

    # Read by pydantic: a configuration with a misspelt name is refused, and the options' docstrings
    # describe them in its schema.
    __pydantic_config__: ClassVar[dict[str, Any]] = {
        "extra": "forbid",
        "use_attribute_docstrings": True,
    }

    channels_last: bool = True
    """lay weights out for fast convolutions"""
    attention: Attention = "auto"
    """CUDA only: whose kernels come first: torch's choice (default), cuDNN's, FlashAttention's, or
    the fastest on the real UNet at the default size, and FlashAttention's at others (auto)"""
    compile: bool | None = None
    """torch.compile the UNets and, on CUDA, the KL decoder; null means on CUDA only, since on a CPU
    it takes far longer than it saves"""
    cuda_graphs: bool = True
    """replay recorded calls of the UNets, the KL decoder and the text encoder"""
    recorded_images: tuple[int, ...] = (1, 2, 3, 4, 6, 8, 12, 16)
    """how many images recorded UNet calls have, each 1 to 16; others are split and padded"""
    vae_decoder: bool = True
    """whether `compile` and `cuda_graphs` hold for the KL decoder, too"""
    text_encoder: bool = True
    """whether `cuda_graphs` holds for the text encoder, too"""
    cudnn_benchmark: bool = False
    """let cuDNN time its kernels for the convolutions of recorded calls, before they are recorded
    and never in a request; a search for each of `recorded_images` makes the start longer"""
    conv_1x1_as_mm: bool = True
    """CUDA only: compile convolutions of single pixels as matrix multiplications"""
    cpu_threads: int | None = None
    """torch's threads for one call on a CPU; null leaves the process's setting"""
    embedding_cache: int = 64
    """how many prompts' embeddings are kept; 0 disables the cache"""
    deterministic: bool = False
    """the same request gives the same bytes whatever else is drawn, in any process on the same kind
    of device with the same libraries and switches: no image shares its calls, and nothing is chosen
    by timing, neither the attention nor cuDNN's kernels; calls of one image only are recorded"""

    def __post_init__(self) -> None:
        if not self.recorded_images or not set(self.recorded_images) <= set(range(1, 17)):
            raise ValueError(
                f"recorded_images: {self.recorded_images} was given; at least one, each 1 to 16"
            )
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"cpu_threads: {self.cpu_threads} was given; at least 1")
        if self.embedding_cache < 0:
            raise ValueError(f"embedding_cache: {self.embedding_cache} was given; at least 0")


DEFAULTS = Optimisations()
