import asyncio
import io

import numpy as np
import pytest
from PIL import Image

from serve.generation import OutputFormat, PictureFormat
from serve.replica.encoding import Encoder, encode

_ROW, _COLUMN = np.mgrid[0:64, 0:96]
PIXELS = np.stack([4 * _ROW, 2 * _COLUMN, 128 + _ROW - _COLUMN], axis=-1).astype(np.uint8)


def decode(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def test_png_is_lossless() -> None:
    assert np.array_equal(decode(encode(PIXELS, PictureFormat("png", 90))), PIXELS)


@pytest.mark.parametrize("output_format", ["jpeg", "webp"])
def test_lossy_formats_are_close_and_shrink_with_quality(output_format: OutputFormat) -> None:
    fine, coarse = (encode(PIXELS, PictureFormat(output_format, quality)) for quality in (95, 20))
    assert np.abs(decode(fine).astype(int) - PIXELS).mean() < 3
    assert len(coarse) < len(fine)
    assert Image.open(io.BytesIO(fine)).format == output_format.upper()


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp"])
def test_a_description_travels_in_the_exif(output_format: OutputFormat) -> None:
    form = PictureFormat(output_format, 90)
    plain, told = encode(PIXELS, form), encode(PIXELS, form, "random values")
    assert dict(Image.open(io.BytesIO(told)).getexif()) == {0x010E: "random values"}
    assert b"Exif" not in plain
    assert b"EXIF" not in plain
    assert np.array_equal(decode(told), decode(plain))


def test_parameters_travel_in_a_png_and_in_nothing_else() -> None:
    told = Image.open(io.BytesIO(encode(PIXELS, PictureFormat("png", 90), None, "花 Steps: 2")))
    assert told.text == {"parameters": "花 Steps: 2"}  # type: ignore[attr-defined]
    # Tools that know only the plain chunk read what Latin-1 can say.
    assert b"tEXtparameters\0Gr\xfc\xdfe" in encode(PIXELS, PictureFormat("png", 90), None, "Grüße")
    for output_format in ("jpeg", "webp"):
        form = PictureFormat(output_format, 90)
        assert encode(PIXELS, form, None, "Steps: 2") == encode(PIXELS, form)


async def test_pictures_are_encoded_side_by_side() -> None:
    encoder = Encoder(threads=4)
    images = [np.full((8 * side, 8 * side, 3), side, np.uint8) for side in range(40, 0, -1)]
    form = PictureFormat("png", 90)
    pictures = await asyncio.gather(*(encoder.encode(one, form) for one in images))
    assert [int(decode(one)[0, 0, 0]) for one in pictures] == list(range(40, 0, -1))
    encoder.close()
