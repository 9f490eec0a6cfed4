"""What an `Accept` header asks for: JSON, a picture's bytes, or a stream of events."""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from ..errors import NotAcceptable, shown
from ..generation import OutputFormat

# Also `.5`, which some clients send; not what else `float` reads, such as nan.
_WEIGHT = re.compile(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}")
# Java's HttpURLConnection sends the first, old software the second; browsers can show JSON.
_ALIASES = {
    "*": "*/*",
    "image/jpg": "image/jpeg",
    "text/html": "application/json",
    "text/*": "application/json",
}

Answer = Literal["application/json", "text/event-stream", "image/png", "image/jpeg", "image/webp"]
_PICTURES: tuple[Answer, ...] = tuple(
    answer for answer in get_args(Answer) if answer.startswith("image/")
)


def negotiate_stream(accept: str) -> Answer:
    """The answer to a request for a stream, which is one whether a stream or JSON is accepted.

    Raises:
        NotAcceptable: neither is.
    """
    ranges = _parsed(accept)
    if max(_weight("text/event-stream", ranges), _weight("application/json", ranges)) > 0:
        return "text/event-stream"
    raise _not_acceptable(accept, ["text/event-stream", "application/json"])


def negotiate(accept: str, output_format: OutputFormat | None) -> Answer:
    """JSON, or a picture where the header asks for one: the body's format first, then PNG.

    A picture is asked for by `image/png`, `image/*` and the like. Where the header accepts
    everything besides, as many clients' defaults do, that counts only against an
    `application/json` of a lower weight. The most specific range that matches gives an answer's
    weight (RFC 9110, section 12.5.1).

    Raises:
        NotAcceptable: neither is accepted.
    """
    ranges = _parsed(accept)
    named = [(kind, weight) for kind, weight in ranges if kind != "*/*"]
    pictures = sorted(_PICTURES, key=lambda answer: answer != f"image/{output_format}")
    picture = max(pictures, key=lambda answer: _weight(answer, named))
    json_weight = _weight("application/json", named)
    if _weight(picture, named) > json_weight and (json_weight > 0 or _weight("*/*", ranges) == 0):
        return picture
    for answer in ("application/json", picture, *pictures):
        if _weight(answer, ranges) > 0:
            return answer
    raise _not_acceptable(accept, ["application/json", *_PICTURES])


def _not_acceptable(accept: str, offered: Sequence[str]) -> NotAcceptable:
    return NotAcceptable(
        f"accept: {shown(accept)} was given; this can be answered with {', '.join(offered)}",
        "accept",
    )


def _parsed(accept: str) -> list[tuple[str, float]]:
    """The header's media ranges with their weights; an empty header accepts everything."""
    given = [media_range for media_range in accept.split(",") if media_range.strip()]
    return [_parsed_range(media_range) for media_range in given or ["*/*"]]


def _parsed_range(media_range: str) -> tuple[str, float]:
    kind, *parameters = (part.strip().lower() for part in media_range.split(";"))
    kind = _ALIASES.get(kind, kind)
    for parameter in parameters:
        if parameter.startswith("q="):
            weight = parameter.removeprefix("q=")
            return kind, min(float(weight), 1.0) if _WEIGHT.fullmatch(weight) else 0.0
    return kind, 1.0


def _weight(answer: str, ranges: Sequence[tuple[str, float]]) -> float:
    for wanted in (answer, f"{answer.split('/')[0]}/*", "*/*"):
        for media_range, weight in ranges:
            if media_range == wanted:
                return weight
    return 0.0
