"""`POST /v1/images/edits`: a form with a picture, perhaps a mask, and the fields of generations."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response

from ..errors import InvalidRequest
from ..generation import Generation
from .edit_schemas import EditRequest, Picture, upload_bytes, upload_words
from .error_responses import Route, errors
from .gate import require_own_site
from .images import answer_request, drawn_responses
from .multipart import Form, read_form
from .options import HttpOptions, UploadLimits
from .schemas import ImagesResponse
from .service import Router
from .upload_memory import UploadMemory
from .uploads import read_mask, read_picture


def edit_routes(
    router: Router, options: HttpOptions, memory: UploadMemory, locks: Sequence[Any]
) -> APIRouter:
    """The route, with `locks` as its dependencies where keys are needed."""
    routes = APIRouter(route_class=Route)

    @routes.post(
        "/v1/images/edits",
        dependencies=list(locks),
        response_model=ImagesResponse,
        responses=drawn_responses(locks) | errors(403),
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"multipart/form-data": {"schema": _form_schema()}},
            }
        },
    )
    async def edit_images(request: Request) -> Response:
        """Draw one or more images that start from a picture; answered as generations are."""
        require_own_site(request.headers)
        async with memory.reserve(request.headers, upload_bytes(options)) as reserved:
            form = await read_form(
                request.headers,
                request.stream(),
                files=("image", "mask"),
                max_bytes=reserved.max_bytes,
                timeout_s=options.body_timeout_s,
                hint=upload_words(options),
            )
            asked = EditRequest.parse(form.fields)
            # Nothing of the upload is kept while the edit waits and is drawn: it is tens of MB.
            pictures = [await reserved.decode(_read, form, options)]
            del form

            async def with_source(generation: Generation) -> Generation:
                return await reserved.scale(pictures.pop().fitted_to, generation)

            asked = asked.of_size(pictures[0].size_px)
            return await answer_request(request, router, reserved.limits(), asked, with_source)

    return routes


def _read(form: Form, limits: UploadLimits) -> Picture:
    """The form's picture and mask, or what of the picture is transparent."""
    if "image" not in form.files:
        raise InvalidRequest("image: missing; it must be a PNG, JPEG or WebP file", "image")
    upload = read_picture(form.files["image"], "image", limits)
    height_px, width_px, _ = upload.pixels.shape
    if "mask" in form.files:
        mask = read_mask(form.files["mask"], "mask", (width_px, height_px), limits)
        return Picture(upload.pixels, mask)
    if upload.transparent is None:
        return Picture(upload.pixels, None)
    return Picture(upload.pixels, upload.transparent.astype(np.uint8) * 255)


def _form_schema() -> dict[str, Any]:
    schema = EditRequest.model_json_schema()
    picture = {"type": "string", "format": "binary"}
    files = {
        "image": {**picture, "description": "PNG, JPEG or WebP; transparent parts are its mask."},
        "mask": {
            **picture,
            "description": "PNG or WebP, as large as the picture was sent: what is transparent "
            "may change, everything else keeps its pixels.",
        },
    }
    return {
        **schema,
        "properties": {**files, **schema["properties"]},
        "required": ["image", *schema.get("required", [])],
    }
