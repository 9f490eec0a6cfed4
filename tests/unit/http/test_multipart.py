"""Hostile forms are in tests/fuzz/forms.py."""

import asyncio
import logging
import math
import tracemalloc
from collections.abc import AsyncIterator, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.errors import BodyTooLarge, MalformedBody, RequestTimeout, ServingError
from serve.http.multipart import Form, read_form
from tests import virtual_time
from tests.fuzz.forms import BOUNDARY, PNG, REFUSED_FORMS, RefusedForm, file, form, text
from tests.fuzz.test_parsers import mutated

FORM = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}
MIB = 1024**2


async def sent(body: bytes, piece_bytes: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), piece_bytes):
        yield body[at : at + piece_bytes]


async def read(
    body: bytes,
    headers: Mapping[str, str] = FORM,
    piece_bytes: int = 64 * 1024,
    max_bytes: int = MIB,
) -> Form:
    parts = sent(body, piece_bytes)
    files = ("image", "mask")
    return await read_form(headers, parts, files=files, max_bytes=max_bytes, timeout_s=60)


@pytest.mark.parametrize("piece_bytes", [1, 7, 64 * 1024])
async def test_a_form_gives_its_text_and_files(piece_bytes: int) -> None:
    body = form(
        text("prompt", "Grüße 🌻\r\n--b0undar\r\n".encode()),
        text("empty", b""),
        file("image[]", PNG),
        file("mask", b"\r\n--b0undar", "\r\nContent-Transfer-Encoding: Binary"),
        text("n", b"2", "\r\nContent-Type: text/plain; charset=UTF-8"),
    )
    found = await read(body, piece_bytes=piece_bytes)
    assert found.fields == {"prompt": "Grüße 🌻\r\n--b0undar\r\n", "empty": "", "n": "2"}
    assert found.files == {"image": PNG, "mask": b"\r\n--b0undar"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (form(file("image", b"x")), f'Multipart/Form-Data; charset=utf-8; boundary="{BOUNDARY}"'),
        (b"\r\n" + form(file("image", b"x")) + b"epilogue" * 1_000, FORM["content-type"]),
        (form(file("image", b"x")).removesuffix(b"\r\n"), FORM["content-type"]),
        (form(file("image", b"x")).replace(b"a.png", b"../../etc/passwd\0"), FORM["content-type"]),
        (form(file("image", b"x")).replace(b"a.png", b'\\"; name=\\"y'), FORM["content-type"]),
        (form(file("image", b"x")).replace(BOUNDARY.encode(), b"b" * 70),
         f"multipart/form-data; boundary={'b' * 70}"),
    ],
    ids=["quoted boundary", "epilogue", "no line break at the end", "path as filename",
         "name in a filename", "long boundary"],
)  # fmt: skip
async def test_an_odd_form_is_read(body: bytes, content_type: str) -> None:
    assert await read(body, {"content-type": content_type}) == Form({}, {"image": b"x"})


@pytest.mark.parametrize("case", REFUSED_FORMS, ids=lambda case: case.name)
async def test_a_hostile_form_is_refused_in_words(
    case: RefusedForm, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(ServingError) as fault:
        await read(case.body, {"content-type": case.content_type})
    assert (fault.value.status, fault.value.param) == (case.status, case.param)
    assert case.words in fault.value.message
    assert fault.value.message.isascii()
    assert not [record for record in caplog.records if record.name != "asyncio"]


async def test_an_encoded_form_is_refused() -> None:
    with pytest.raises(ServingError, match="a body must come as it is"):
        await read(form(text("prompt")), {**FORM, "content-encoding": "gzip"})


async def test_a_form_over_the_limit_is_refused_before_the_rest_is_read() -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield form(text("prompt"), end=file("image", b"x"))[:-2]
        while True:
            yield b"x" * 1_000

    with pytest.raises(BodyTooLarge, match="body: over 1048576 bytes"):
        await read_form(FORM, endless(), files=("image",), max_bytes=MIB, timeout_s=60)


async def test_a_form_that_does_not_come_in_time_is_refused() -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield b"--b0"
        await asyncio.Event().wait()

    with pytest.raises(RequestTimeout, match=r"body: 4 bytes came in 0\.01 s"):
        await read_form(FORM, stalling(), files=(), max_bytes=MIB, timeout_s=0.01)


def test_a_large_form_has_time_in_proportion_and_a_trickle_has_not() -> None:
    async def at(part_bytes: int, every_s: float) -> AsyncIterator[bytes]:
        body = form(file("image", bytes(20 * MIB)))
        for start in range(0, len(body), part_bytes):
            await asyncio.sleep(every_s)
            yield body[start : start + part_bytes]

    async def uploaded(part_bytes: int, every_s: float) -> float:
        parts, loop = at(part_bytes, every_s), asyncio.get_running_loop()
        try:
            await read_form(FORM, parts, files=("image",), max_bytes=32 * MIB, timeout_s=10)
        except RequestTimeout:
            return loop.time()
        return math.inf

    assert virtual_time.run(uploaded(MIB, 2.3)) == math.inf
    # 10 s, and as many as it has come to at 512 KiB/s.
    assert virtual_time.run(uploaded(MIB, 4.1)) == 10 + 2 * 3
    assert virtual_time.run(uploaded(1, 9.0)) == pytest.approx(10, abs=0.001)


async def test_a_file_of_delimiters_is_refused_before_it_is_parsed() -> None:
    near = f"\r\n--{BOUNDARY}x".encode()
    assert (await read(form(file("image", near * 30)))).files["image"] == near * 30
    with pytest.raises(MalformedBody, match="over 40 fields"):
        await read(form(file("image", near * 60)))


async def test_others_have_their_turn_while_a_form_is_parsed() -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    await read(form(file("image", bytes(MIB // 2))))
    beside.cancel()
    assert turns >= 8


async def test_a_form_takes_twice_its_bytes_of_memory() -> None:
    files = [file(name, bytes(MIB // 4)) for name in ("image", "mask")]
    body = form(*files)
    tracemalloc.start()
    try:
        # In small pieces, each of which would be an object of its own.
        await read(body, piece_bytes=10, max_bytes=len(body))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(body) < peak_bytes < 2.1 * len(body)


VALID = form(text("prompt"), file("image[]", PNG[:60]), text("n", b"1", "\r\nX-Y: z"))


@settings(deadline=None, max_examples=300)
@given(
    body=mutated(VALID),
    content_type=st.just(FORM["content-type"]) | mutated(FORM["content-type"].encode()).map(
        lambda given: given.decode("latin-1")),
    piece_bytes=st.integers(1, 300),
)  # fmt: skip
def test_a_broken_form_is_read_or_refused(body: bytes, content_type: str, piece_bytes: int) -> None:
    try:
        found = asyncio.run(read(body, {"content-type": content_type}, piece_bytes))
    except ServingError as fault:
        assert fault.status in (400, 413)
        assert fault.message.isascii()
    else:
        assert set(found.files) <= {"image", "mask"}
