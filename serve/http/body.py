"""Reads a request's body, bounded in bytes and in time."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Mapping

from ..errors import BodyTooLarge, InvalidRequest, RequestTimeout, shown

MAX_BODY_BYTES = 64 * 1024


async def read_json(
    headers: Mapping[str, str], parts: AsyncIterator[bytes], timeout_s: float
) -> bytes:
    """Read a body that is said to be JSON, counting as it comes: a chunked one declares no length.

    A page of another host can send nothing that is said to be JSON without being allowed to.

    Raises:
        InvalidRequest: it is said to be something else, or encoded.
        BodyTooLarge: more than `MAX_BODY_BYTES`.
        RequestTimeout: it isn't here after `timeout_s`.
    """
    _check_is_json(headers)
    size = 0
    found: list[bytes] = []
    try:
        async with asyncio.timeout(timeout_s):
            async for part in parts:
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise BodyTooLarge(
                        f"body: over {MAX_BODY_BYTES} bytes, the most that is allowed"
                    )
                found.append(part)
    except TimeoutError:
        raise RequestTimeout(
            f"body: {size} bytes came in {timeout_s:g} s, the time in which all of it must be here"
        ) from None
    # RFC 8259, section 8.1: a parser may ignore a byte order mark, which some editors write.
    return b"".join(found).removeprefix(codecs.BOM_UTF8)


def _check_is_json(headers: Mapping[str, str]) -> None:
    given = headers.get("content-type", "")
    if given.split(";")[0].strip().lower() != "application/json":
        raise InvalidRequest(
            f"content-type: {shown(given)} was given; it must be application/json",
            "content-type",
        )
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise InvalidRequest(
            f"content-encoding: {shown(encoding)} was given; a body must come as it is",
            "content-encoding",
        )
