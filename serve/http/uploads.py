"""A client's picture file: bounded, decoded to upright sRGB pixels, or refused in words.

Everything here is without state and takes up to some tenths of a second: call it on a thread.
"""

import io
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from ..errors import BodyTooLarge, InvalidRequest, shown
from .options import UploadLimits
from .picture_files import (
    ALLOWED,
    Refused,
    bare_jpeg,
    bare_png,
    kind,
    orientation,
    other_kind,
    webp_size,
)

# Profiles of RGB are at most some 100 KB; Pillow reads no larger ones from a PNG.
_MAX_PROFILE_BYTES = 1024 * 1024
# What Pillow's readers and their codecs raise on broken files.
_UNREADABLE = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    struct.error,
)  # fmt: skip
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# An alpha below is more transparent than not.
_OPAQUE_FROM = 128


@dataclass(frozen=True)
class Upload:
    """A decoded picture."""

    pixels: NDArray[np.uint8]
    """`(H, W, 3)`, sRGB, upright. Under what is transparent, the colours that the file has there,
    as diffusers takes them too."""
    has_alpha: bool
    """Whether the file says anywhere what is transparent."""
    transparent: NDArray[np.bool_] | None
    """`(H, W)`, where alpha is below 128; None where nothing is."""


def read_picture(data: bytes, field: str, limits: UploadLimits) -> Upload:
    """Decode a PNG, JPEG or WebP file.

    Exif's orientation is applied, and an ICC profile of RGB converted to sRGB. A broken one is
    ignored, as browsers do: so the picture looks as it does to the client. Of 16 bits a channel,
    the upper 8 are kept.

    Raises:
        BodyTooLarge: more bytes than are allowed; names the `field`.
        InvalidRequest: not such a file, broken, animated, too large in pixels, in CMYK, or with a
            transparent colour in 2, 4 or 16 bits; names the `field`.
    """
    try:
        return _read(data, limits)
    except _TooManyBytes as fault:
        raise BodyTooLarge(f"{field}: {fault}", field) from None
    except Refused as fault:
        raise InvalidRequest(f"{field}: {fault}", field) from None
    except _UNREADABLE:
        raise InvalidRequest(
            f"{field}: a {kind(data)} file that is damaged or incomplete was given; {ALLOWED}",
            field,
        ) from None


def read_mask(
    data: bytes, field: str, size_px: tuple[int, int], limits: UploadLimits
) -> NDArray[np.uint8]:
    """Decode the Images API's mask to `(H, W)`: 255 where it is transparent, 0 elsewhere.

    `size_px` is the width and height of the picture that it belongs to.

    Raises:
        BodyTooLarge: more bytes than are allowed; names the `field`.
        InvalidRequest: as `read_picture`, or nothing is transparent, or of another size.
    """
    mask = read_picture(data, field, limits)
    if mask.transparent is None:
        why = "" if mask.has_alpha else ", since the file has no alpha channel"
        raise InvalidRequest(
            f"{field}: no part of it is transparent{why}; white doesn't count here: it must be a "
            "PNG or WebP whose alpha channel is transparent where the picture is to be edited",
            field,
        )
    height_px, width_px = mask.transparent.shape
    if (width_px, height_px) != size_px:
        raise InvalidRequest(
            f"{field}: {width_px}x{height_px} px were given; it must be of the picture's size "
            f"as it was sent, before scaling: {size_px[0]}x{size_px[1]} px",
            field,
        )
    return mask.transparent.astype(np.uint8) * 255


def read_white_mask(
    data: bytes, field: str, size_px: tuple[int, int], limits: UploadLimits
) -> NDArray[np.uint8]:
    """Decode AUTOMATIC1111's mask, white where the picture is to be edited, to `(H, W)` of 0, 255.

    One with transparency is taken by that instead, opaque where it is to be edited, as there
    (`create_binary_mask`). It is scaled to `size_px`, width and height.

    Raises:
        BodyTooLarge: more bytes than are allowed; names the `field`.
        InvalidRequest: as `read_picture`.
    """
    mask = read_picture(data, field, limits)
    grey = Image.fromarray(mask.pixels).convert("L")
    if mask.transparent is not None:
        grey = Image.fromarray(~mask.transparent).convert("L")
    scaled = np.asarray(grey.resize(size_px, Image.Resampling.BILINEAR))
    return np.where(scaled < 128, 0, 255).astype(np.uint8)


class _TooManyBytes(Refused):
    pass


def _read(data: bytes, limits: UploadLimits) -> Upload:
    if len(data) > limits.max_upload_mib * 1024**2:
        raise _TooManyBytes(
            f"{len(data)} bytes were given; at most {limits.max_upload_mib} MiB are allowed"
        )
    image, exif = _opened(data, limits)
    _check_size(image.size, limits)
    if getattr(image, "n_frames", 1) > 1:
        raise Refused(f"an animated {image.format} was given; {ALLOWED}")
    if image.mode == "CMYK":
        raise Refused("a picture in CMYK was given; RGB and grey are allowed")
    image.load()
    # A PNG's may come after its pixels.
    exif = exif or image.info.get("exif", b"")
    colours, alpha = _split(image)
    if profile := image.info.get("icc_profile"):
        colours = _to_srgb(colours, profile)
    turn = _UPRIGHT.get(orientation(exif))
    if turn is not None:
        colours = colours.transpose(turn)
        alpha = None if alpha is None else alpha.transpose(turn)
    transparent = None if alpha is None else np.asarray(alpha) < _OPAQUE_FROM
    if transparent is not None and not transparent.any():
        transparent = None
    return Upload(np.asarray(colours), alpha is not None, transparent)


def _opened(data: bytes, limits: UploadLimits) -> tuple[ImageFile, bytes]:
    """The file's header read, by the class of its format, and a JPEG's Exif.

    `Image.open` would warn about large pictures before anybody can refuse them, and read what a
    JPEG has besides its first picture.
    """
    match kind(data):
        case "PNG":
            return PngImageFile(io.BytesIO(bare_png(data))), b""
        case "JPEG":
            bare, exif = bare_jpeg(data)
            return JpegImageFile(io.BytesIO(bare)), exif
        case "WebP":
            # Opening one already allocates its canvas.
            _check_size(webp_size(data), limits)
            return WebPImageFile(io.BytesIO(data)), b""
    if not data:
        raise Refused(f"an empty file was given; {ALLOWED}")
    if other := other_kind(data):
        raise Refused(f"a file in {other} was given; {ALLOWED}")
    raise Refused(
        f"a file that begins with {shown(data[:8].decode('latin-1'))} was given; {ALLOWED}"
    )


def _check_size(size_px: tuple[int, int], limits: UploadLimits) -> None:
    most = limits.max_upload_side_px
    if max(size_px) > most:
        raise Refused(
            f"{size_px[0]}x{size_px[1]} px were given; at most {most} px a side are allowed"
        )


def _split(image: ImageFile) -> tuple[Image.Image, Image.Image | None]:
    """The colours in RGB, and alpha where there is any."""
    if image.mode == "I;16":  # Which `convert` would clip instead.
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB"), None
    if not image.has_transparency_data:
        return image.convert("RGB"), None
    both = image.convert("RGBA")
    return both.convert("RGB"), both.getchannel("A")


def _to_srgb(colours: Image.Image, icc_profile: bytes) -> Image.Image:
    """The colours in sRGB; as they are where the profile isn't one of RGB, or is broken."""
    if len(icc_profile) > _MAX_PROFILE_BYTES:
        return colours
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(colours, profile, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return colours
    return converted or colours
