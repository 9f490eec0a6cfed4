"""What an edit starts from, and its request: the form's text, the picture, and how that is scaled.

Pictures are scaled on a thread: `upload_memory` has them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import Field, PrivateAttr

from ..errors import InvalidRequest, shown
from ..generation import Generation, Source
from ..variants import Variant
from .options import RequestLimits, UploadLimits
from .schemas import SIZE_STEP_PX, GenerationRequest, Size, validate_request

_TEXT_BYTES = 64 * 1024

Resize = Literal["cover", "stretch", "fit"]


class EditRequest(GenerationRequest):
    """The text fields of `POST /v1/images/edits`: those of generations, and `strength`."""

    strength: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Share of the steps that are taken, from the picture made so noisy: the less, "
        "the nearer to it. With 1, a masked part is drawn from nothing but noise.",
    )
    size: Size | Literal["auto"] | None = Field(
        None,
        description="WIDTHxHEIGHT in pixels, multiples of 8, which the picture is scaled to cover; "
        "with auto or none the picture's own where its area is at most that of the variant's own "
        "size, else its shape scaled down to that area.",
    )
    input_fidelity: Literal["low", "high"] | None = Field(
        None, description="Without effect, which a warning says: `strength` decides."
    )

    file_fields: ClassVar[tuple[str, ...]] = ("image", "mask")

    _picture_px: tuple[int, int] = PrivateAttr((0, 0))
    """Width and height of the picture."""

    @classmethod
    def parse(cls, fields: Mapping[str, str]) -> Self:
        """A request of a form's fields; raises `InvalidRequest`."""
        return validate_request(cls, {name: _value(name, text) for name, text in fields.items()})

    def of_size(self, picture_px: tuple[int, int]) -> Self:
        """The request for a picture of this width and height."""
        asked = self.model_copy()
        asked._picture_px = picture_px
        return asked

    def resolve(
        self, variant: Variant, limits: RequestLimits, few_step: Sequence[str] = ()
    ) -> Generation:
        """As a generation's; its source has no pixels yet, since the size is the variant's."""
        generation = super().resolve(variant, limits, few_step)
        if generation.first_step == generation.num_inference_steps:
            field = self.client_name("strength")
            raise InvalidRequest(
                f"{field}: {self.strength:g} was given, which leaves none of "
                f"{generation.num_inference_steps} steps; give a higher {field}, or more steps",
                field,
            )
        return generation

    def _source(self) -> Source | None:
        return Source(b"", None, self.strength)

    def _size_px(self, variant: Variant) -> tuple[int, int]:
        if self.size not in (None, "auto"):
            return super()._size_px(variant)
        sides_px = _default_size(self._picture_px, variant)
        if sides_px is None:
            width_px, height_px = self._picture_px
            image, size = self.client_name("image"), self.client_name("size")
            raise InvalidRequest(
                f"{size}: none was given, and {image} has {width_px}x{height_px} px; "
                f"{shown(variant.name)} draws sides from {variant.min_size_px} to "
                f"{variant.max_size_px}, which no picture of that shape has; name a size",
                size,
            )
        return sides_px

    def _warnings(self) -> tuple[str, ...]:
        if self.input_fidelity is None:
            return super()._warnings()
        given = shown(self.input_fidelity)
        return (*super()._warnings(), f"input_fidelity: {given} has no effect here")


@dataclass(frozen=True)
class Picture:
    """What an edit starts from: `(H, W, 3)`, and `(H, W)` over 127 where it may change.

    For another size it is scaled: to cover that, the rest cut off; to that, whatever its shape; or
    to fit in, its edges drawn out.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.uint8] | None
    resize: Resize = "cover"

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def fitted_to(self, generation: Generation) -> Generation:
        """The generation with this as its source."""
        assert generation.source is not None
        size_px = generation.width_px, generation.height_px
        pixels = Image.fromarray(self.pixels)
        mask = None if self.mask is None else Image.fromarray(self.mask)
        if pixels.size != size_px:
            pixels = self._scaled(pixels, size_px, Image.Resampling.LANCZOS)
            mask = mask and self._scaled(mask, size_px, Image.Resampling.NEAREST)
        changing = None if mask is None else mask.tobytes()
        source = Source(pixels.tobytes(), changing, generation.source.strength)
        return replace(generation, source=source)

    def _scaled(
        self, image: Image.Image, size_px: tuple[int, int], filtering: Image.Resampling
    ) -> Image.Image:
        match self.resize:
            case "cover":
                return ImageOps.fit(image, size_px, filtering)
            case "stretch":
                return image.resize(size_px, filtering)
            case "fit":
                scale = min(ours / own for ours, own in zip(size_px, image.size, strict=True))
                within = [max(1, round(scale * side)) for side in image.size]
                inside = np.asarray(image.resize((within[0], within[1]), filtering))
                missing = [size_px[1] - inside.shape[0], size_px[0] - inside.shape[1]]
                margins = [(share // 2, share - share // 2) for share in missing]
                around = [*margins, *[(0, 0)] * (inside.ndim - 2)]
                return Image.fromarray(np.pad(inside, around, mode="edge"))


def upload_bytes(limits: UploadLimits) -> int:
    """The most of a body with a picture, a mask and text."""
    return 2 * limits.max_upload_mib * 1024**2 + _TEXT_BYTES


def upload_words(limits: UploadLimits) -> str:
    """What that makes of a picture, for the error's words."""
    return f"; a picture and a mask may have {limits.max_upload_mib} MiB each"


def _value(name: str, text: str) -> Any:
    """What a form's text stands for in a field that is no text; absent where it is empty."""
    if name in _text_fields():
        return text if text or name == "prompt" else None
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return text


@cache
def _text_fields() -> frozenset[str]:
    properties = EditRequest.model_json_schema()["properties"]
    rules = {name: field.get("anyOf", [field]) for name, field in properties.items()}
    return frozenset(
        name
        for name, alternatives in rules.items()
        if any(rule.get("type") == "string" or "const" in rule for rule in alternatives)
    )


def _default_size(picture_px: tuple[int, int], variant: Variant) -> tuple[int, int] | None:
    """The picture's size, its area at most about that of the variant's own, within its bounds.

    None where no size within the bounds has the picture's shape. The page has the same rule, in
    `fitSize`: hence half a step is rounded up, as there.
    """
    low, high = variant.min_size_px, variant.max_size_px
    scale = min(
        1.0, high / max(picture_px), variant.default_size_px / math.sqrt(math.prod(picture_px))
    )
    scale = max(scale, low / min(picture_px))
    steps = [math.floor(scale * side / SIZE_STEP_PX + 0.5) for side in picture_px]
    sides_px = [max(low, count * SIZE_STEP_PX) for count in steps]
    # A little over is rounding; more is a shape with one side too long.
    if max(sides_px) > high + SIZE_STEP_PX:
        return None
    return min(sides_px[0], high), min(sides_px[1], high)
