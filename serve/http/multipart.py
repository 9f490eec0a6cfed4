"""Reads a form (`multipart/form-data`, RFC 7578): text fields and files, in memory only."""

import logging
import re
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

from ..errors import BodyTooLarge, InvalidRequest, MalformedBody, shown
from .body import check_content_type, read_into

# The Images API's edits have 17 fields, of which some servers' clients send 10 more.
_MAX_PARTS = 40
# As much as the whole body of a JSON route.
_MAX_TEXT_BYTES = 64 * 1024
# Browsers send 2 headers, with a file's name of at most 255 characters, each 12 bytes when escaped.
_MAX_PART_HEADERS = 8
_MAX_HEADER_BYTES = 4096
# RFC 2046, section 5.1.1.
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
# RFC 7578, section 4.7: nothing in a form needs to be encoded.
_TRANSFER_ENCODINGS = (b"7bit", b"8bit", b"binary")

# The parser logs what it refuses, to anybody's log and as often as anybody sends it.
_SILENT = logging.Logger("python_multipart", logging.CRITICAL + 1)


@dataclass(frozen=True)
class Form:
    """What came in a form: text by its field's name, and files' contents."""

    fields: Mapping[str, str]
    files: Mapping[str, bytes]


async def read_form(
    headers: Mapping[str, str],
    parts: AsyncIterator[bytes],
    *,
    files: Collection[str],
    max_bytes: int,
    timeout_s: float,
    hint: str = "",
) -> Form:
    """Read a form in which only the fields named in `files` are files; `NAME[]` is `NAME`, too.

    Files' names and types are ignored. It takes about twice `max_bytes` of memory.
    `hint` ends what is said of a larger one.

    Raises:
        InvalidRequest: it is said to be no form, or a field is at fault, which is named.
        MalformedBody: it can't be parsed, or ends early.
        BodyTooLarge: more than `max_bytes`, or 64 KiB of text in one field.
        RequestTimeout: it isn't here after `timeout_s`.
    """
    check_content_type(headers, "multipart/form-data")
    given = headers["content-type"]
    boundary = parse_options_header(given)[1].get(b"boundary", b"")
    if not _BOUNDARY.fullmatch(boundary):
        raise InvalidRequest(
            f"content-type: {shown(given)} was given; multipart/form-data needs a boundary of "
            "1 to 70 letters, digits, spaces inside and '()+_,-./:=?",
            "content-type",
        )
    reader, delimiter = _Reader(files), b"\r\n--" + boundary
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": reader.on_part_begin,
            "on_header_field": reader.on_header_field,
            "on_header_value": reader.on_header_value,
            "on_header_end": reader.on_header_end,
            "on_headers_finished": reader.on_headers_finished,
            "on_part_data": reader.on_part_data,
            "on_part_end": reader.on_part_end,
            "on_end": reader.on_end,
        },
        max_header_count=_MAX_PART_HEADERS,
        max_header_size=_MAX_HEADER_BYTES,
    )
    parser.logger = _SILENT

    def parse(part: bytes) -> None:
        # Those that aren't followed by a line break are data to the parser, at 1 us each.
        reader.count_delimiters(part.count(delimiter))
        parser.write(part)

    try:
        await read_into(parse, parts, max_bytes, timeout_s, hint)
    except MultipartParseError as fault:
        raise MalformedBody(
            "body: isn't multipart/form-data with the boundary of its content-type, and at most "
            f"{_MAX_PART_HEADERS} headers of {_MAX_HEADER_BYTES} bytes in each field: "
            f"{shown(str(fault))}"
        ) from None
    if not reader.ended:
        raise MalformedBody("body: ends before the closing boundary of its multipart/form-data")
    return Form(reader.fields, reader.contents)


@dataclass
class _Reader:
    """The parser's callbacks: `data[start:end]` is the next piece of a header or of a field."""

    files: Collection[str]
    fields: dict[str, str] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    ended: bool = False
    _parts: int = 0
    _delimiters: int = 0
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _name: str = ""
    # Appended to in place: a list of pieces would take many times their bytes were they small.
    _content: bytearray = field(default_factory=bytearray)

    def count_delimiters(self, more: int) -> None:
        self._delimiters += more
        # One more ends the form; one of a hostile form may come in two pieces.
        if max(self._parts, self._delimiters - 1) > _MAX_PARTS:
            raise MalformedBody(f"body: over {_MAX_PARTS} fields, the most that are allowed")

    def on_part_begin(self) -> None:
        self._parts += 1
        self.count_delimiters(0)
        self._headers = {}
        self._content = bytearray()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        header = bytes(self._header).lower()
        if header in self._headers:
            raise MalformedBody(f"body: a field has {shown(header.decode('latin-1'))} twice")
        self._headers[header] = bytes(self._value).strip(b" \t")
        self._header, self._value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        disposition, options = parse_options_header(
            self._headers.get(b"content-disposition", b"").decode("latin-1")
        )
        try:
            name = options.get(b"name", b"").decode()
        except UnicodeDecodeError:
            name = ""
        if disposition != b"form-data" or not name:
            raise MalformedBody(
                "body: a field is without content-disposition: form-data and a name in UTF-8"
            )
        bracketed = name.endswith("[]") and name.removesuffix("[]") in self.files
        self._name = name.removesuffix("[]") if bracketed else name
        self._check_kind(is_file=b"filename" in options)
        self._check_repeated()
        self._check_encoding()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]
        if self._name not in self.files and len(self._content) > _MAX_TEXT_BYTES:
            raise BodyTooLarge(
                f"{shown(self._name)}: over {_MAX_TEXT_BYTES} bytes of text, the most that is "
                "allowed",
                self._name[:64],
            )

    def on_part_end(self) -> None:
        content, self._content = self._content, bytearray()
        if self._name in self.files:
            self.contents[self._name] = bytes(content)
            return
        try:
            self.fields[self._name] = content.decode()
        except UnicodeDecodeError as fault:
            raise self._refused(f"byte {fault.start} is not UTF-8, in which text must be") from None

    def on_end(self) -> None:
        self.ended = True

    def _check_kind(self, *, is_file: bool) -> None:
        if is_file and self._name not in self.files:
            allowed = ", ".join(self.files)
            raise self._refused(f"a file was given; only {allowed} may be files, others are text")
        if not is_file and self._name in self.files:
            raise self._refused(
                "text was given; it must be a file, with a filename: URLs aren't fetched, and curl "
                f"sends a file by -F {self._name}=@FILE"
            )

    def _check_repeated(self) -> None:
        if self._name in self.contents:
            raise self._refused("several files were given; one is allowed")
        if self._name in self.fields:
            raise self._refused("was given twice; once is allowed")

    def _check_encoding(self) -> None:
        encoding = self._headers.get(b"content-transfer-encoding", b"binary").lower()
        if encoding not in _TRANSFER_ENCODINGS:
            raise self._refused(
                f"content-transfer-encoding: {shown(encoding.decode('latin-1'))} was given; a "
                "field must come as it is"
            )
        media_type, options = parse_options_header(
            self._headers.get(b"content-type", b"").decode("latin-1")
        )
        if media_type.startswith(b"multipart/"):
            raise self._refused("a form in a form was given; each file is a field of its own")
        charset = options.get(b"charset", b"utf-8").lower()
        if self._name == "_charset_" or charset not in (b"utf-8", b"us-ascii"):
            raise self._refused("a charset was given; text must be UTF-8")

    def _refused(self, words: str) -> InvalidRequest:
        return InvalidRequest(f"{shown(self._name)}: {words}", self._name[:64])
