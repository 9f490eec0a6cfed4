"""Picture files as containers: which format, and of it only what makes pixels and colours.

What is cut out, texts, thumbnails and further pictures, costs nothing whatever hides in it, and
Pillow's readers of Exif and animations, which warn about what they find, never run.
"""

import re
import struct
from collections.abc import Iterator

ALLOWED = "a still PNG, JPEG or WebP picture is allowed"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"IDAT", b"IEND")
# A photo of 16 MiB has 2,000 chunks of 8 KiB; a million empty ones take seconds.
_MAX_SEGMENTS = 20_000
# The last of the 0xFF before a marker; what lies before is padding.
_JPEG_MARKER = re.compile(rb"\xff([\x01-\xfe])")
_JPEG_APP, _JPEG_COMMENT, _JPEG_START_OF_SCAN = range(0xE0, 0xF0), 0xFE, 0xDA
# What says how the samples make colours.
_JPEG_COLOURS = (b"JFIF\0", b"ICC_PROFILE\0", b"Adobe")
# A progressive JPEG has about 10. Each may go over all pixels and be 20 bytes long.
_MAX_SCANS = 100
_EXIF_ORIENTATION = 0x0112


class Refused(Exception):
    """The message says what was given and what is allowed."""


def kind(data: bytes) -> str | None:
    """The format by its signature, whatever a name or a media type says."""
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WebP" if data.startswith(b"RIFF") and data[8:12] == b"WEBP" else None


def other_kind(data: bytes) -> str | None:
    """The format of a picture that isn't allowed, for the error's words."""
    if data[4:8] == b"ftyp":  # ISO/IEC 14496-12; of the brands, those of ISO/IEC 23008-12 and AVIF.
        if data[8:12] in (b"avif", b"avis"):
            return "AVIF"
        heic = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
        return "HEIC" if data[8:12] in heic else None
    starts = {b"GIF8": "GIF", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"<svg": "SVG"}
    if data.startswith(b"<?xml") and b"<svg" in data[:1024]:
        return "SVG"
    return next((name for start, name in starts.items() if data.startswith(start)), None)


def bare_png(data: bytes) -> bytes:
    """Of a PNG's chunks, those that make its pixels, colours and orientation."""
    kept: list[memoryview | bytes] = [_PNG_SIGNATURE]
    depth, colour_type = struct.unpack_from(">BB", data, 24)
    for name, chunk in _png_chunks(data):
        if name == b"acTL" and struct.unpack_from(">I", chunk, 8)[0] > 1:
            raise Refused(f"an animated PNG was given; {ALLOWED}")
        if name == b"tRNS" and colour_type in (0, 2) and depth not in (1, 8):
            # Pillow compares the colour with pixels of another depth.
            raise Refused(
                f"a PNG with a transparent colour in {depth} bits a channel was given; 8 bits, or "
                "an alpha channel, are allowed"
            )
        if name in _PNG_CHUNKS:
            kept.append(chunk)
    return b"".join(kept)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The chunks' names, and each with its length, name and checksum, up to the last."""
    view, start = memoryview(data), len(_PNG_SIGNATURE)
    for _ in range(_MAX_SEGMENTS):
        length, name = struct.unpack_from(">I4s", data, start)
        yield name, view[start : start + 12 + length]
        if name == b"IEND":
            return
        start += 12 + length
    raise Refused(f"a PNG of over {_MAX_SEGMENTS} chunks was given; {ALLOWED}")


def bare_jpeg(data: bytes) -> tuple[bytes, bytes]:
    """A JPEG without the segments that its pixels and colours don't need; and its Exif."""
    kept: list[memoryview | bytes] = [data[:2]]
    view, exif, at = memoryview(data), b"", 2
    for _ in range(_MAX_SEGMENTS):
        marker = _JPEG_MARKER.search(data, at)
        if marker is None:
            raise EOFError
        start, code = marker.start(), marker[1][0]
        if code == _JPEG_START_OF_SCAN:
            if data.count(b"\xff\xda", start) > _MAX_SCANS:
                raise Refused(f"a JPEG of over {_MAX_SCANS} scans was given; {ALLOWED}")
            return b"".join([*kept, view[start:]]), exif
        (length,) = struct.unpack_from(">H", data, start + 2)
        at = start + 2 + length
        content = data[start + 4 : at]
        if code not in (*_JPEG_APP, _JPEG_COMMENT) or content.startswith(_JPEG_COLOURS):
            kept.append(view[start:at])
        elif content.startswith(b"Exif\0\0"):
            exif = exif or content
    raise Refused(f"a JPEG of over {_MAX_SEGMENTS} segments was given; {ALLOWED}")


def webp_size(data: bytes) -> tuple[int, int]:
    """The canvas, from the header of the first chunk (RFC 9649)."""
    match data[12:16]:
        case b"VP8X":
            width, width_high, height, height_high = struct.unpack_from("<HBHB", data, 24)
            return 1 + width + (width_high << 16), 1 + height + (height_high << 16)
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, 21)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
    raise SyntaxError


def orientation(exif: bytes) -> int:
    """Exif's tag of the first directory (TIFF 6.0, section 2); 1 where there is none to read."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return 1
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, directory)
        for entry in range(entries):
            tag, value = struct.unpack_from(f"{order}H6xH", tiff, directory + 2 + 12 * entry)
            if tag == _EXIF_ORIENTATION:
                return int(value)
    except struct.error:
        pass
    return 1
