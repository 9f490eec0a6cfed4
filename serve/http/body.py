"""Reads a request's body, bounded in bytes and in time."""

import asyncio
import codecs
from collections.abc import AsyncIterator, Callable, Mapping

from ..errors import BodyTooLarge, InvalidRequest, RequestTimeout, shown

MAX_BODY_BYTES = 64 * 1024
# 4 Mbit/s, after a start of `timeout_s`: a form with two pictures of 16 MiB has 74 s by default, so
# that it is drawn, too, within the `request_timeout_s` of the overlays.
LEAST_BYTES_PER_S = 512 * 1024


async def read_json(
    headers: Mapping[str, str],
    parts: AsyncIterator[bytes],
    timeout_s: float,
    max_bytes: int = MAX_BODY_BYTES,
    hint: str = "",
) -> bytes:
    """Read a body that is said to be JSON; `hint` ends what is said of a larger one.

    A page of another host can send nothing that is said to be JSON without being allowed to.

    Raises:
        InvalidRequest: it is said to be something else, or encoded.
        BodyTooLarge: more than `max_bytes`.
        RequestTimeout: it isn't here in time, as `read_into` has it.
    """
    check_content_type(headers, "application/json")
    found: list[bytes] = []
    await read_into(found.append, parts, max_bytes, timeout_s, hint)
    # RFC 8259, section 8.1: a parser may ignore a byte order mark, which some editors write.
    return b"".join(found).removeprefix(codecs.BOM_UTF8)


async def read_into(
    consume: Callable[[bytes], object],
    parts: AsyncIterator[bytes],
    max_bytes: int,
    timeout_s: float,
    hint: str = "",
) -> None:
    """Call `consume` with each part, counting as they come: a chunked body declares no length.

    All of them must be here after `timeout_s`, with a second more for each 512 KiB that came, as
    Apache's `RequestReadTimeout` has it with `MinRate`: a large body has time in proportion, and a
    byte now and then gains none.

    Raises:
        BodyTooLarge: more than `max_bytes`.
        RequestTimeout: they aren't here in time.
    """
    size, allowed_s = 0, timeout_s
    began_s = asyncio.get_running_loop().time()
    try:
        async with asyncio.timeout(timeout_s) as limit:
            async for part in parts:
                size += len(part)
                if size > max_bytes:
                    raise BodyTooLarge(
                        f"body: over {max_bytes} bytes, the most that is allowed{hint}"
                    )
                consume(part)
                allowed_s = timeout_s + size / LEAST_BYTES_PER_S
                limit.reschedule(began_s + allowed_s)
                # Parts that are here already come without a wait, and a hostile form takes some
                # 10 ms of the parser for each 64 KiB.
                await asyncio.sleep(0)
    except TimeoutError:
        raise RequestTimeout(
            f"body: {size} bytes came in {allowed_s:.3g} s; all of it must be here in "
            f"{timeout_s:g} s, and a second more for each {LEAST_BYTES_PER_S // 1024} KiB that "
            "came"
        ) from None


def check_content_type(headers: Mapping[str, str], expected: str) -> None:
    """Refuse a body that is said to be something else than `expected`, or encoded.

    Raises:
        InvalidRequest: names the header.
    """
    given = headers.get("content-type", "")
    media_type = given.split(";")[0].strip().lower()
    if media_type != expected:
        is_form = media_type == "multipart/form-data"
        hint = "; forms with a picture go to /v1/images/edits" if is_form else ""
        raise InvalidRequest(
            f"content-type: {shown(given)} was given; it must be {expected}{hint}",
            "content-type",
        )
    encoding = headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise InvalidRequest(
            f"content-encoding: {shown(encoding)} was given; a body must come as it is",
            "content-encoding",
        )
