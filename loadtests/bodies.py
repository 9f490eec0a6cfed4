"""A request's body as it is sent: JSON, or for an edit a form with its picture."""

import io
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

# No picture and no prompt has it in itself.
_BOUNDARY = "distilled-sd-serve-load-test"
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
_PICTURES_DIR = Path(__file__).parent / "pictures"
# Scenes of the miniature's, 96x96.
PICTURES = ("boat.png", "cat.png", "house.png", "vase.png")
# The API's default; it is sent all the same, so that a report can say what was asked for.
STRENGTH = 0.8


def path_of(asked: Mapping[str, Any]) -> str:
    """The route that a request is for."""
    return EDITS if "image" in asked else GENERATIONS


def content_of(asked: Mapping[str, Any]) -> tuple[bytes, str]:
    """The body and its content type; `image` names one of `PICTURES`."""
    if "image" not in asked:
        return json.dumps(asked).encode(), "application/json"
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="'
    text = (
        f'{head}{name}"\r\n\r\n{value}\r\n'
        for name, value in asked.items()
        if name not in ("image", "picture_px")
    )
    file = f'{head}image"; filename="{asked["image"]}"\r\nContent-Type: image/png\r\n\r\n'
    picture = _picture(asked["image"], asked["picture_px"])
    content = b"".join(
        [*map(str.encode, text), file.encode(), picture, f"\r\n--{_BOUNDARY}--\r\n".encode()]
    )
    return content, f"multipart/form-data; boundary={_BOUNDARY}"


@cache
def _picture(name: str, side_px: int) -> bytes:
    with Image.open(_PICTURES_DIR / name) as opened:
        file = io.BytesIO()
        opened.resize((side_px, side_px), Image.Resampling.LANCZOS).save(file, "PNG")
    return file.getvalue()
