"""The optimisations of a pipeline, each with a switch; and determinism, which costs speed.

Plain data, so that configuring them needs no torch.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

Attention = Literal["auto", "default", "cudnn", "flash"]


@dataclass(frozen=True, slots=True)
class Optimisations:
    """Which optimisations a pipeline uses.

    Attributes:
        channels_last: lay weights out for fast convolutions.
        attention: CUDA only; whose kernels come first: torch's choice (`default`), cuDNN's,
            FlashAttention's, or the fastest on the real UNet (`auto`).
        compile: torch.compile the UNets; None means on CUDA only, since on a CPU it takes far
            longer than it saves.
        cuda_graphs: replay recorded UNet calls.
        cpu_threads: torch's threads for one call on a CPU; None leaves the process's setting.
        embedding_cache: how many prompts' embeddings are kept; 0 disables the cache.
        skip_guidance_after: share of a trajectory, over 0 and at most 1, after which guidance is
            off; below 1 it changes the picture.
        deterministic: the same request gives the same bytes whatever else is drawn, in any process
            on the same kind of device with the same libraries and switches: no image shares its
            calls, and nothing is chosen by timing.
    """

    # Read by pydantic: a configuration with a misspelt name is refused.
    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    channels_last: bool = True
    attention: Attention = "auto"
    compile: bool | None = None
    cuda_graphs: bool = True
    cpu_threads: int | None = None
    embedding_cache: int = 64
    skip_guidance_after: float = 1.0
    deterministic: bool = False

    def __post_init__(self) -> None:
        if self.cpu_threads is not None and self.cpu_threads < 1:
            raise ValueError(f"cpu_threads: {self.cpu_threads} was given; at least 1")
        if self.embedding_cache < 0:
            raise ValueError(f"embedding_cache: {self.embedding_cache} was given; at least 0")
        if not 0 < self.skip_guidance_after <= 1:
            raise ValueError(
                f"skip_guidance_after: {self.skip_guidance_after} was given; over 0, at most 1"
            )


DEFAULTS = Optimisations()
