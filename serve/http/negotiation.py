"""What an `Accept` header asks for: JSON, a picture's bytes, or a stream of events."""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from ..errors import NotAcceptable, shown
from ..generation import OutputFormat

# Also `.5`, which some clients send; not what else `float` reads, such as nan.
_WEIGHT = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")

Answer = Literal["application/json", "text/event-stream", "image/png", "image/jpeg", "image/webp"]


def negotiate(accept: str, offered: Sequence[Answer]) -> Answer:
    """The offered answer that an `Accept` header prefers; the earlier one where it doesn't care.

    The most specific range that matches an answer gives its weight, as RFC 9110, section 12.5.1
    has it.

    Raises:
        NotAcceptable: it accepts none of them.
    """
    given = [media_range for media_range in accept.split(",") if media_range.strip()]
    ranges = [_parsed(media_range) for media_range in given or ["*/*"]]
    weights = [_weight(answer, ranges) for answer in offered]
    best = max(weights)
    if best <= 0:
        raise NotAcceptable(
            f"accept: {shown(accept)} was given; this can be answered with {', '.join(offered)}",
            "accept",
        )
    return offered[weights.index(best)]


def picture_answers(output_format: OutputFormat | None) -> tuple[Answer, ...]:
    """The picture types to offer: all, or the one that the request's body names first."""
    images: list[Answer] = [answer for answer in get_args(Answer) if answer.startswith("image/")]
    images.sort(key=lambda answer: answer != f"image/{output_format}")
    return tuple(images)


def _parsed(media_range: str) -> tuple[str, float]:
    media_type, *parameters = (part.strip().lower() for part in media_range.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            weight = parameter.removeprefix("q=")
            return media_type, min(float(weight), 1.0) if _WEIGHT.fullmatch(weight) else 0.0
    return media_type, 1.0


def _weight(answer: str, ranges: Sequence[tuple[str, float]]) -> float:
    kind = answer.split("/")[0]
    for wanted in (answer, f"{kind}/*", "*/*"):
        for media_range, weight in ranges:
            if media_range == wanted:
                return weight
    return 0.0
