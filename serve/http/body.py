"""Reads a request's body, bounded in bytes and in time."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable, Mapping

from ..errors import BodyTooLarge, InvalidRequest, RequestTimeout, shown

MAX_BODY_BYTES = 64 * 1024


async def read_json(
    headers: Mapping[str, str],
    parts: AsyncIterator[bytes],
    timeout_s: float,
    max_bytes: int = MAX_BODY_BYTES,
) -> bytes:
    """Read a body that is said to be JSON.

    A page of another host can send nothing that is said to be JSON without being allowed to.

    Raises:
        InvalidRequest: it is said to be something else, or encoded.
        BodyTooLarge: more than `max_bytes`.
        RequestTimeout: it isn't here after `timeout_s`.
    """
    check_content_type(headers, "application/json")
    found: list[bytes] = []
    await read_into(found.append, parts, max_bytes, timeout_s)
    # RFC 8259, section 8.1: a parser may ignore a byte order mark, which some editors write.
    return b"".join(found).removeprefix(codecs.BOM_UTF8)


async def read_into(
    consume: Callable[[bytes], object],
    parts: AsyncIterator[bytes],
    max_bytes: int,
    timeout_s: float,
) -> None:
    """Call `consume` with each part, counting as they come: a chunked body declares no length.

    Raises:
        BodyTooLarge: more than `max_bytes`.
        RequestTimeout: not all of them are here after `timeout_s`.
    """
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            async for part in parts:
                size += len(part)
                if size > max_bytes:
                    raise BodyTooLarge(f"body: over {max_bytes} bytes, the most that is allowed")
                consume(part)
    except TimeoutError:
        raise RequestTimeout(
            f"body: {size} bytes came in {timeout_s:g} s, the time in which all of it must be here"
        ) from None


def check_content_type(headers: Mapping[str, str], expected: str) -> None:
    """Refuse a body that is said to be something else than `expected`, or encoded.

    Raises:
        InvalidRequest: names the header.
    """
    given = headers.get("content-type", "")
    if given.split(";")[0].strip().lower() != expected:
        raise InvalidRequest(
            f"content-type: {shown(given)} was given; it must be {expected}",
            "content-type",
        )
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise InvalidRequest(
            f"content-encoding: {shown(encoding)} was given; a body must come as it is",
            "content-encoding",
        )
