"""Hostile files are in tests/fuzz/pictures.py."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageOps

from serve.errors import BodyTooLarge, InvalidRequest
from serve.http.options import UploadLimits
from serve.http.uploads import read_mask, read_picture, read_white_mask
from tests.fuzz import pictures
from tests.fuzz.pictures import JPEG, PICTURE, PIXELS, PNG, REFUSED_PICTURES, WEBP, encoded, png

LIMITS = UploadLimits()
RGB = PICTURE.convert("RGB")
BYTES_OF_JPEG = np.asarray(Image.open(io.BytesIO(JPEG)))
LEFT = PIXELS[..., 3] < 128  # What is transparent in it.
SIZE_PX = PICTURE.size
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exif(orientation: int, order: str = "<") -> bytes:
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    return (
        b"Exif\0\0" + mark + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    )


def swapped_profile() -> bytes:
    """sRGB with the primaries of red and blue swapped: what is red by it is blue in sRGB."""
    profile = bytearray(SRGB)
    at = {bytes(SRGB[i : i + 4]): i for i in range(132, 132 + 12 * SRGB[131], 12)}
    red, blue = at[b"rXYZ"], at[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


@pytest.mark.parametrize("name", REFUSED_PICTURES)
def test_a_hostile_file_is_refused_by_its_fields_name(name: str) -> None:
    data, words = REFUSED_PICTURES[name]
    with pytest.raises(InvalidRequest) as fault:
        read_picture(data, "image", LIMITS)
    assert fault.value.param == "image"
    assert fault.value.message.startswith("image: ")
    assert words in fault.value.message
    assert "allowed" in fault.value.message


def test_a_file_over_the_limit_in_bytes_is_refused_before_it_is_read() -> None:
    with pytest.raises(BodyTooLarge, match=r"image: 1048577 bytes were given; at most 1 MiB"):
        read_picture(PNG.ljust(2**20 + 1), "image", UploadLimits(max_upload_mib=1))


@pytest.mark.parametrize(
    ("data", "rgb", "transparent"),
    [
        (PNG, PIXELS[..., :3], LEFT),
        (WEBP, PIXELS[..., :3], LEFT),
        (JPEG, BYTES_OF_JPEG, None),
        (encoded(RGB, "PNG"), PIXELS[..., :3], None),
        (encoded(RGB, "WEBP", lossless=True), PIXELS[..., :3], None),
        (encoded(Image.new("RGBA", (1, 1), (1, 2, 3, 128)), "PNG"), [[[1, 2, 3]]], None),
        (encoded(PICTURE.convert("LA"), "PNG"), np.asarray(RGB.convert("L").convert("RGB")), LEFT),
        (encoded(Image.new("L", (2, 1), 9), "JPEG", quality=100), [[[9] * 3, [9] * 3]], None),
        (png(1, 0, b"\x80"), [[[255] * 3, [0] * 3]], None),
        (png(1, 0, b"\x80", (b"tRNS", b"\0\1")), [[[255] * 3, [0] * 3]], [[True, False]]),
        (png(4, 0, b"\x1f"), [[[17] * 3, [255] * 3]], None),
        (png(8, 0, b"\1\2", (b"tRNS", b"\0\2")), [[[1] * 3, [2] * 3]], [[False, True]]),
        (png(8, 2, b"\1\2\3\4\5\6", (b"tRNS", b"\0\1\0\2\0\3")), [[[1, 2, 3], [4, 5, 6]]],
         [[True, False]]),
        (png(8, 3, b"\1\0", (b"PLTE", b"\1\2\3\4\5\6")), [[[4, 5, 6], [1, 2, 3]]], None),
        (png(8, 3, b"\1\0", (b"PLTE", b"\1\2\3\4\5\6"), (b"tRNS", b"\0")),
         [[[4, 5, 6], [1, 2, 3]]], [[False, True]]),
        (png(8, 3, b"\1\0", (b"PLTE", b"\1\2\3\4\5\6"), (b"tRNS", b"\xff\x10")),
         [[[4, 5, 6], [1, 2, 3]]], [[True, False]]),
        (png(16, 0, b"\x12\xff\xfe\0"), [[[0x12] * 3, [0xFE] * 3]], None),
        (png(16, 2, b"\1\xff\2\xff\3\xff\4\0\5\0\6\0"), [[[1, 2, 3], [4, 5, 6]]], None),
        (png(16, 6, b"\1\xff\2\xff\3\xff\xff\xff\4\0\5\0\6\0\1\0"), [[[1, 2, 3], [4, 5, 6]]],
         [[False, True]]),
        (encoded(RGB, "MPO", quality=95, save_all=True, append_images=[Image.new("RGB", (9, 9))]),
         BYTES_OF_JPEG, None),
        (pictures.with_segments(JPEG, pictures.segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
         BYTES_OF_JPEG, None),
        (pictures.with_segments(JPEG, pictures.segment(0xFE, b"x") + b"\0\xff") + b"more",
         BYTES_OF_JPEG, None),
        (png(8, 0, b"\1\2", (b"zTXt", b"x\0\0" + zlib.compress(bytes(2**26)))),
         [[[1] * 3, [2] * 3]], None),
        (png(8, 0, b"\1\2" + bytes(2**24)), [[[1] * 3, [2] * 3]], None),
        (png(8, 0, b"\1\2", (b"acTL", bytes(8)), (b"acTL", bytes(8))), [[[1] * 3, [2] * 3]], None),
    ],
    ids=[
        "PNG", "WebP", "JPEG", "opaque PNG", "opaque WebP", "alpha of 128", "grey with alpha",
        "grey JPEG", "1 bit", "1 bit, transparent white", "4 bits", "transparent grey",
        "transparent RGB", "palette", "palette, transparent colour", "palette with alphas",
        "16-bit grey", "16-bit RGB", "16-bit RGBA", "first of two in a JPEG", "broken Exif",
        "padding between segments", "bomb in a text", "more pixels than said", "no animation",
    ],
)  # fmt: skip
def test_a_file_gives_its_pixels_and_what_is_transparent(
    data: bytes, rgb: object, transparent: object
) -> None:
    found = read_picture(data, "image", LIMITS)
    assert found.pixels.dtype == np.uint8
    np.testing.assert_array_equal(found.pixels, np.asarray(rgb))
    assert (found.transparent is None) == (transparent is None)
    if transparent is not None:
        np.testing.assert_array_equal(found.transparent, np.asarray(transparent))


@pytest.mark.parametrize("order", ["<", ">"], ids=["Intel", "Motorola"])
@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_picture_is_turned_upright(orientation: int, picture_format: str, order: str) -> None:
    image = RGB if picture_format == "JPEG" else PICTURE
    data = encoded(image, picture_format, exif=exif(orientation, order), lossless=True, exact=True)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = read_picture(data, "image", LIMITS)
    np.testing.assert_array_equal(found.pixels, np.asarray(upright.convert("RGB")))
    if picture_format != "JPEG":
        assert found.transparent is not None
        np.testing.assert_array_equal(found.transparent, np.asarray(upright)[..., 3] < 128)


@pytest.mark.parametrize("picture_format", ["PNG", "JPEG", "WEBP"])
def test_an_embedded_profile_is_converted_to_srgb(picture_format: str) -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    data = encoded(red, picture_format, icc_profile=swapped_profile(), quality=100)
    np.testing.assert_allclose(
        read_picture(data, "image", LIMITS).pixels[8, 8], (0, 0, 255), atol=3
    )


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile",
        swapped_profile()[:200],
        swapped_profile().replace(b"RGB ", b"CMYK", 1),
        swapped_profile().ljust(2**20 + 1),
        SRGB,
    ],
    ids=["rubbish", "half", "of CMYK", "huge", "sRGB"],
)
def test_a_profile_that_is_of_no_use_leaves_the_pixels(profile: bytes) -> None:
    data = encoded(PICTURE, "WEBP", lossless=True, exact=True, icc_profile=profile)
    np.testing.assert_array_equal(read_picture(data, "image", LIMITS).pixels, PIXELS[..., :3])


def test_a_mask_is_to_be_edited_where_it_is_transparent() -> None:
    mask = read_mask(PNG, "mask", SIZE_PX, LIMITS)
    np.testing.assert_array_equal(mask, np.where(LEFT, 255, 0))
    assert mask.dtype == np.uint8


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encoded(RGB, "PNG"), "no alpha channel; white doesn't count here"),
        (encoded(RGB.convert("RGBA"), "PNG"), "no part of it is transparent; white"),
        (JPEG, "must be a PNG or WebP whose alpha channel is transparent"),
        (
            encoded(PICTURE.resize((24, 32)), "PNG"),
            "24x32 px were given; it must be .* sent, before scaling: 32x24 px",
        ),
        (b"", "an empty file was given"),
    ],
    ids=["without alpha", "opaque", "JPEG", "another size", "empty"],
)
def test_any_other_mask_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^mask: .*{words}") as fault:
        read_mask(data, "mask", SIZE_PX, LIMITS)
    assert fault.value.param == "mask"


def test_automatic1111s_mask_is_to_be_edited_where_it_is_white_or_else_opaque() -> None:
    half = Image.new("L", (8, 4))
    half.paste(200, (0, 0, 4, 4))
    for image in (half, Image.merge("LA", (Image.new("L", (8, 4)), half))):
        mask = read_white_mask(encoded(image, "PNG"), "mask", (4, 2), LIMITS)
        np.testing.assert_array_equal(mask, [[255, 255, 0, 0]] * 2)


def with_checksums(data: bytes) -> bytes:
    """A broken PNG's chunks with checksums that are right, so that their contents are read."""
    whole, at = data[:8], 8
    while at + 12 <= len(data):
        length = min(int.from_bytes(data[at : at + 4]), len(data) - at - 12)
        whole += pictures.chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return whole


_EXTRA = {"exif": exif(6), "icc_profile": swapped_profile()}
VALID = [
    encoded(PICTURE, "PNG", **_EXTRA), encoded(PICTURE.quantize(9), "PNG", transparency=3),
    encoded(RGB, "JPEG", **_EXTRA), encoded(RGB, "JPEG", progressive=True),
    encoded(PICTURE, "WEBP", **_EXTRA), WEBP, encoded(RGB, "WEBP"),
]  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(valid=st.sampled_from(VALID), changes=st.data())
def test_a_broken_file_gives_pixels_or_is_refused_and_warns_of_nothing(
    valid: bytes, changes: st.DataObject
) -> None:
    broken = valid
    for _ in range(changes.draw(st.integers(1, 3))):
        # Headers are where there is most to break.
        at = changes.draw(st.integers(0, min(200, len(broken))) | st.integers(0, len(broken)))
        cut = at + changes.draw(st.sampled_from([0, 1, 1, 1, 4, len(broken)]))
        broken = broken[:at] + changes.draw(st.binary(max_size=4)) + broken[cut:]
    if broken.startswith(b"\x89PNG"):
        broken = with_checksums(broken)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = read_picture(broken, "image", LIMITS)
        except InvalidRequest as fault:
            assert fault.message.startswith("image: ")
            assert fault.message.isascii()
        else:
            assert found.pixels.shape[2] == 3
            assert max(found.pixels.shape) <= 4096
