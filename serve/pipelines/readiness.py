"""What became of a pipeline's optimisations when it was loaded."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import torch

T = TypeVar("T")


@dataclass
class Readiness:
    """Which optimisations are on, which are off and why, and the seconds of each preparation."""

    switched_on: list[str] = field(default_factory=list)
    left_off: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def timed(self, part: str, work: Callable[[], T]) -> T:
        """Run a part of the preparation, and record its seconds."""
        started_s = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[part] = time.perf_counter() - started_s

    def attempt(self, part: str, work: Callable[[], T]) -> T | None:
        """Run a part that can be left off; None if it fails, with the reason in `left_off`."""
        try:
            return self.timed(part, work)
        except Exception as fault:  # Whatever it is: the plain call draws the same pictures.
            reason = str(fault).strip().partition("\n")[0]
            self.left_off[part] = f"{type(fault).__name__}: {reason}"
        # Outside the handler: the error's traceback keeps tensors alive.
        gc.collect()
        torch.cuda.empty_cache()
        return None
