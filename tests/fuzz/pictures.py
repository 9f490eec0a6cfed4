"""Picture files made by hand that no honest client sends, and the words that refuse them."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image

SIDE_PX = 32
# No two neighbours alike, no symmetry, and half of it transparent where there is alpha.
PIXELS = np.random.default_rng(7).integers(0, 256, (24, SIDE_PX, 4), dtype=np.uint8)
PIXELS[:, :16, 3], PIXELS[:, 16:, 3] = 127, 128
PICTURE = Image.fromarray(PIXELS)


def encoded(image: Image.Image, picture_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, picture_format, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def png(
    depth: int,
    colour_type: int,
    row: bytes,
    *before: tuple[bytes, bytes],
    size: tuple[int, int] = (2, 1),
) -> bytes:
    """A PNG of the row's samples as they are, with chunks before its pixels."""
    header = struct.pack(">IIBBBBB", *size, depth, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header), *before, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def segment(code: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, code, len(content) + 2) + content


def with_segments(jpeg: bytes, segments: bytes) -> bytes:
    return jpeg[:2] + segments + jpeg[2:]


_RGB = PICTURE.convert("RGB")
PNG, WEBP = (encoded(PICTURE, kind, lossless=True, exact=True) for kind in ("PNG", "WEBP"))
JPEG = encoded(_RGB, "JPEG", quality=95)
_WIDE = Image.new("RGB", (4097, 1))
_FILM: dict[str, Any] = {"save_all": True, "append_images": [_RGB.rotate(180)]}
_GREY_16 = b"\1\2\3\4"
_HUGE_WEBP = b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\0" * 2 + b"VP8 "

REFUSED_PICTURES = {
    "empty": (b"", "an empty file was given"),
    "SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "a file in SVG was given"),
    "HTML": (b"<!DOCTYPE html><script>", 'begins with "<!DOCTYP"'),
    "zip": (b"PK\3\4" + PNG, r'begins with "PK\u0003\u0004'),
    "GIF": (encoded(PICTURE, "GIF"), "a file in GIF was given"),
    "BMP": (encoded(_RGB, "BMP"), "a file in BMP was given"),
    "HEIC": (b"\0\0\0\x18ftypheic", "a file in HEIC was given"),
    "AVIF": (b"\0\0\0\x18ftypavif", "a file in AVIF was given"),
    "TIFF": (encoded(PICTURE, "TIFF"), "a file in TIFF was given"),
    "WAV": (b"RIFF\x24\0\0\0WAVEfmt ", 'begins with "RIFF$'),
    "signature of a PNG": (PNG[:8], "a PNG file that is damaged or incomplete"),
    "half a PNG": (PNG[: len(PNG) // 2], "a PNG file that is damaged or incomplete"),
    "PNG without its end": (PNG[:-12], "a PNG file that is damaged or incomplete"),
    "PNG with a wrong checksum": (
        PNG.replace(b"IDAT", b"IDAT\0", 1), "a PNG file that is damaged or incomplete",
    ),
    "signature of a JPEG": (JPEG[:3], "a JPEG file that is damaged or incomplete"),
    "half a JPEG": (JPEG[: len(JPEG) // 2], "a JPEG file that is damaged or incomplete"),
    "JPEG of comments": (
        with_segments(JPEG, segment(0xFE, b"") * 20_000), "a JPEG of over 20000 segments",
    ),
    "JPEG of scans": (JPEG + b"\xff\xda" * 100, "a JPEG of over 100 scans"),
    "half a WebP": (WEBP[: len(WEBP) // 2], "a WebP file that is damaged or incomplete"),
    "head of a WebP": (WEBP[:12], "a WebP file that is damaged or incomplete"),
    "PNG of chunks": (
        png(8, 0, b"\1\2", *[(b"tEXt", b"")] * 20_000), "a PNG of over 20000 chunks",
    ),
    "PNG of pixels": (png(1, 0, b"", size=(2**31 - 1, 1)), "2147483647x1 px were given"),
    "WebP of pixels": (_HUGE_WEBP, "65536x65536 px were given"),
    "wide PNG": (encoded(_WIDE, "PNG"), "4097x1 px were given; at most 4096 px a side"),
    "tall JPEG": (encoded(_WIDE.rotate(90, expand=True), "JPEG"), "1x4097 px were given"),
    "wide WebP": (encoded(_WIDE, "WEBP"), "4097x1 px were given"),
    "wide lossless WebP": (encoded(_WIDE, "WEBP", lossless=True), "4097x1 px were given"),
    "animated PNG": (encoded(_RGB, "PNG", **_FILM), "an animated PNG was given"),
    "animated WebP": (encoded(_RGB, "WEBP", **_FILM), "an animated WEBP was given"),
    "CMYK": (encoded(_RGB.convert("CMYK"), "JPEG"), "a picture in CMYK was given; RGB and grey"),
    "16 bits with a transparent grey": (
        png(16, 0, _GREY_16, (b"tRNS", b"\1\2")), "a transparent colour in 16 bits",
    ),
    "4 bits with a transparent grey": (
        png(4, 0, b"\x12", (b"tRNS", b"\0\2")), "a transparent colour in 4 bits",
    ),
    "profile that is a bomb": (
        png(8, 0, b"\1\2", (b"iCCP", b"x\0\0" + zlib.compress(bytes(2**24)))),
        "a PNG file that is damaged",
    ),
}  # fmt: skip
