"""What a replica may do to be faster, each with a switch.

Plain data, so that whoever configures it needs no torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Optimisations:
    """Which optimisations a pipeline uses.

    `embedding_cache` is how many prompts' embeddings are kept; 0 keeps none.
    `skip_guidance_after` is the share of a trajectory, over 0 and at most 1, after which guidance
    is left off: below 1 it changes the picture.
    """

    embedding_cache: int = 64
    skip_guidance_after: float = 1.0

    def __post_init__(self) -> None:
        if self.embedding_cache < 0:
            raise ValueError(f"embedding_cache: {self.embedding_cache} was given; at least 0")
        if not 0 < self.skip_guidance_after <= 1:
            raise ValueError(
                f"skip_guidance_after: {self.skip_guidance_after} was given; over 0, at most 1"
            )


DEFAULTS = Optimisations()
