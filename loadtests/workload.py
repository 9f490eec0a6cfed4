"""The requests of a load test: the same prompts, seeds and parameters for every variant."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .bodies import PICTURES, STRENGTH

_SIDES_PX = {"miniature": 96, "sd-v1": 512}
_PROMPTS_DIR = Path(__file__).parent / "prompts"


@dataclass(frozen=True)
class Workload:
    """Request number i, always the same one, whichever variant is asked and in whichever order.

    `num_inference_steps` may hold several counts; each request takes one of them. Without any, and
    where another field is None, it is left to the variant's default. A share of the requests,
    `edits`, starts from a picture of `picture_px` a side.
    """

    prompts: tuple[str, ...]
    seed: int = 0
    num_inference_steps: tuple[int, ...] = ()
    n: int = 1
    size: str | None = None
    guidance_scale: float | None = None
    scheduler: str | None = None
    edits: float = 0.0
    picture_px: int = 96

    @classmethod
    def shipped(cls, family: str, **fields: Any) -> Self:
        """Over the prompts that come with the project, for a family of the catalogue.

        Raises:
            FileNotFoundError: there are none for this family.
        """
        lines = (_PROMPTS_DIR / f"{family}.txt").read_text(encoding="utf-8").splitlines()
        return cls(prompts=tuple(lines), picture_px=_SIDES_PX[family], **fields)

    def body(self, index: int, variant: str) -> dict[str, Any]:
        """The fields of one request; `bodies.content_of` makes its body of them."""
        # Not a generator's state: request i doesn't depend on who asked for the ones before.
        drawn = random.Random(f"{self.seed}/{index}")
        body: dict[str, Any] = {
            "model": variant,
            "prompt": drawn.choice(self.prompts),
            "seed": drawn.randrange(2**32),
            "num_inference_steps": drawn.choice(self.num_inference_steps or (None,)),
            "n": self.n,
            "size": self.size,
            "guidance_scale": self.guidance_scale,
            "scheduler": self.scheduler,
        }
        if drawn.random() < self.edits:
            body |= {
                "image": drawn.choice(PICTURES),
                "picture_px": self.picture_px,
                "strength": STRENGTH,
            }
        return {name: value for name, value in body.items() if value is not None}
