"""Whether a reply is the picture that was asked for; a wrong picture is a failure."""

import base64
import binascii
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

AUTO = "auto"
_SEEDS = 2**32
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
# What Pillow raises beside OSError: on misplaced chunks, and on sizes that would fill the memory.
_PILLOW_FAULTS = (SyntaxError, Image.DecompressionBombError)
# The variant in a picture's own parameters; the prompt before them may be any text.
_DRAWN_BY = re.compile(r", Model: ([^,\n]+)(, Version: [^,\n]+)?$")
# Raised by a reply of another shape; the last by thousands of nested lists.
_SHAPE_FAULTS = (ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True)
class Verdict:
    """What became of a request; `reason` is empty where it is ok.

    `rejected` is a 429, which is no failure: the service said that it has no room. `model` is the
    variant that answered, and `model_reason` why, where `auto` was asked for.
    """

    outcome: Literal["ok", "rejected", "failed"]
    reason: str = ""
    retry_after_s: float | None = None
    timings: Mapping[str, float] | None = None
    model: str = ""
    model_reason: str = ""


def judge(
    status: int, headers: Mapping[str, str], content: bytes, asked: Mapping[str, Any]
) -> Verdict:
    """Check a reply against its request: count, variant, seeds, size, and pictures not blank.

    Where `auto` was asked for, any variant may answer that the reply names with a reason. A picture
    that carries its parameters must have been drawn by the variant that the reply names.

    `headers` are by lower-case or case-insensitive name.
    """
    if status == 429:
        return Verdict("rejected", "429", _seconds(headers.get("retry-after")))
    if status != 200:
        return Verdict("failed", f"status {status}: {_message(content)}")
    try:
        reply = json.loads(content)
        problem = _problem(reply, asked)
    except _SHAPE_FAULTS as fault:
        return Verdict("failed", f"not a reply of the Images API: {type(fault).__name__}: {fault}")
    if problem:
        return Verdict("failed", problem)
    timings = reply.get("timings")
    return Verdict(
        "ok",
        timings=timings if isinstance(timings, dict) else None,
        model=reply["model"],
        model_reason=reply.get("model_reason") or "",
    )


def judge_stream(
    lines: Iterable[bytes], asked: Mapping[str, Any], clock_s: Callable[[], float]
) -> tuple[Verdict, list[float]]:
    """Check a stream of events against its request, as it arrives.

    `lines` are the body's, each when it arrives; `clock_s` gives the seconds since the request.

    Returns:
        The verdict, and when each event arrived: the last one is the last picture's.
    """
    arrived_s: list[float] = []
    kinds: list[str] = []
    completed: dict[int, Mapping[str, Any]] = {}
    ended = False
    try:
        for line in lines:
            if line.strip() == b"data: [DONE]":
                ended = True
            elif line.startswith(b"data: "):
                arrived_s.append(clock_s())
                event = json.loads(line.removeprefix(b"data: "))
                if "error" in event:
                    return Verdict("failed", f"error event: {event['error']['message']}"), arrived_s
                kinds.append(event["type"])
                if event["type"] == "image_generation.completed":
                    completed[event["image_index"]] = event
        if not ended:
            return Verdict("failed", "the stream broke off"), arrived_s
        data = [completed[image] for image in sorted(completed)]
        first = data[0] if data else {"model": None, "size": None}
        problem = _problem({**first, "data": data}, asked)
    except _SHAPE_FAULTS as fault:
        reason = f"not a stream of the Images API: {type(fault).__name__}: {fault}"
        return Verdict("failed", reason), arrived_s
    if not problem and kinds.index("image_generation.completed") == 0 < asked["partial_images"]:
        problem = "no preview came before the first picture"
    return (Verdict("failed", problem) if problem else Verdict("ok")), arrived_s


def first_picture(content: bytes) -> bytes:
    """The picture file in a reply that was judged to be right."""
    return base64.b64decode(json.loads(content)["data"][0]["b64_json"])


def _problem(reply: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    """The first thing that is not as asked; empty where all is."""
    n = asked.get("n", 1)
    if len(reply["data"]) != n:
        return f"{len(reply['data'])} pictures, {n} were asked for"
    if asked["model"] == AUTO:
        if reply["model"] in (None, "", AUTO) or not reply.get("model_reason"):
            return "the reply doesn't say which variant answered for auto, and why"
    elif reply["model"] != asked["model"]:
        return f"drawn by {reply['model']!r}, {asked['model']!r} was asked for"
    if asked.get("size") and reply["size"] != asked["size"]:
        return f"size {reply['size']}, {asked['size']} was asked for"
    for index, item in enumerate(reply["data"]):
        seed = (asked["seed"] + index) % _SEEDS
        if item["seed"] != seed:
            # Without the numbers: load tests count failures by their words.
            return f"picture {index} has another seed than was asked for"
        if item.get("flagged"):
            return f"picture {index} was flagged by the safety checker"
        if problem := _picture_problem(item["b64_json"], reply["size"], reply["model"]):
            return f"picture {index}: {problem}"
    return ""


def _picture_problem(b64_json: str, size: str, model: str) -> str:
    try:
        with Image.open(io.BytesIO(base64.b64decode(b64_json, validate=True))) as image:
            drawn_by = _DRAWN_BY.search(image.info.get("parameters", ""))
            pixels = np.asarray(image.convert("RGB"))
    except (binascii.Error, UnidentifiedImageError, OSError, *_PILLOW_FAULTS) as fault:
        return f"does not decode: {fault}"
    height_px, width_px, _ = pixels.shape
    if f"{width_px}x{height_px}" != size:
        return f"is {width_px}x{height_px}, the reply says {size}"
    if drawn_by is not None and drawn_by[1] != model:
        return f"is by {drawn_by[1]!r}, the reply says {model!r}"
    # One colour all over. Random weights draw nearly black pictures, but not even ones.
    if (pixels == pixels[0, 0]).all():
        return "is blank"
    return ""


def _message(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"]["message"])[:200]
    except _SHAPE_FAULTS:
        return content[:200].decode("utf-8", "replace")


def _seconds(value: str | None) -> float | None:
    # A number only: a date, which HTTP allows too, the service never sends.
    return float(value) if value and _SECONDS.fullmatch(value) else None
