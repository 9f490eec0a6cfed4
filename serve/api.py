"""The HTTP face: routes, the body's limits, `Accept`, and errors turned into statuses.

Knows the router as a protocol and no Ray, so that it can be tested in one process.
"""

import asyncio
import base64
import logging
import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from .errors import (
    BodyTooLarge,
    InvalidRequest,
    MethodNotAllowed,
    RouteNotFound,
    ServingError,
)
from .generation import Drawing, Generation, OutputFormat, PictureFormat
from .images import MEDIA_TYPES
from .schemas import (
    MAX_BODY_BYTES,
    ErrorBody,
    ErrorResponse,
    GenerationRequest,
    Image,
    ImagesResponse,
    parse_request,
)
from .variants import Family, Variant
from .weights.manifest import Manifest

_OUTPUT_FORMATS: dict[str, OutputFormat] = {"png": "png", "jpeg": "jpeg", "webp": "webp"}
_log = logging.getLogger("ray.serve")  # Serve adds the request's id to this logger's lines.


class Router(Protocol):
    """What the routes ask of the router."""

    @property
    def family(self) -> Family:
        """What is served."""

    @property
    def variants(self) -> dict[str, Variant]:
        """The served variants by name."""

    @property
    def manifest(self) -> Manifest:
        """Where their weights came from."""

    def pick(self, model: str) -> Variant:
        """The variant that answers for a `model`; raises `VariantNotFound`."""

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Have a replica draw; raises `ServingError`."""

    async def warm_replicas(self) -> dict[str, int]:
        """How many replicas of each variant are warm."""


def build_api(router: Router, max_image_steps: int, min_ready_replicas: int) -> FastAPI:
    """The application over a router.

    `max_image_steps` bounds one request's work (`GenerationRequest.resolve`); `/readyz` wants
    `min_ready_replicas` warm replicas of every variant.
    """
    # Offline: Swagger's files come from the package, so /docs works without a network.
    api: FastAPI = FastAPIOffline(
        title="distilled-sd-serve",
        description="Stable Diffusion v1, distilled, and with a tiny VAE, behind one endpoint.",
        version="1",
        redoc_url=None,
    )
    api.router.route_class = _Route
    _add_error_handlers(api)

    @api.post(
        "/v1/images/generations",
        response_model=ImagesResponse,
        responses={
            200: {"content": {media_type: {} for media_type in MEDIA_TYPES.values()}},
            **{status: {"model": ErrorResponse} for status in (400, 404, 413, 429, 500, 503, 504)},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {"schema": GenerationRequest.model_json_schema()}},
            }
        },
    )
    async def generate_images(request: Request) -> Response:
        """Draw one or more images: JSON, or with `Accept: image/...` and `n` = 1 the bytes."""
        _require_json(request)
        asked = parse_request(await _read_body(request))
        accepted = _accepted_format(request.headers.get("accept", "*/*"))
        if accepted is not None and asked.n != 1:
            raise InvalidRequest(
                f"n: {asked.n} was given, but the Accept header asks for one picture's bytes, "
                "which allows only 1; accept application/json for more",
                "n",
            )
        picture_format = asked.picture_format(accepted)
        variant = router.pick(asked.model)
        generation = asked.resolve(variant, max_image_steps)
        drawing = await router.draw(generation, picture_format)
        if accepted is not None:
            return _picture_response(variant.name, generation, picture_format, drawing)
        # Base64 of megabytes takes milliseconds: not on the event loop.
        reply = await asyncio.to_thread(_json, variant.name, generation, picture_format, drawing)
        return Response(reply, media_type="application/json")

    @api.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        """The served variants, what each is made of, and the defaults of its requests."""
        return {
            "object": "list",
            "data": [
                _model(router.family, variant, router.manifest)
                for variant in router.variants.values()
            ],
        }

    @api.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Alive: the router answers."""
        return {"status": "ok"}

    @api.get("/readyz", responses={503: {"description": "a variant lacks warm replicas"}})
    async def readyz() -> JSONResponse:
        """Ready: every variant has at least its configured minimum of warm replicas."""
        replicas = await router.warm_replicas()
        ready = all(count >= min_ready_replicas for count in replicas.values())
        content = {"ready": ready, "warm_replicas": replicas, "minimum": min_ready_replicas}
        return JSONResponse(content, status_code=200 if ready else 503)

    return api


def _add_error_handlers(api: FastAPI) -> None:
    @api.exception_handler(ServingError)
    async def serving_error(_: Request, fault: Exception) -> JSONResponse:
        return _error_response(fault if isinstance(fault, ServingError) else _internal_error())

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, fault: Exception) -> JSONResponse:
        path, method = ascii(request.url.path)[:80], request.method
        if isinstance(fault, HTTPException) and fault.status_code == 405:
            return _error_response(MethodNotAllowed(f"{method} is not allowed on {path}"))
        return _error_response(RouteNotFound(f"{path}: no such route; GET /docs lists them"))


class _Route(APIRoute):
    """A route whose unexpected errors are logged here and never shown to the client."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except (ServingError, HTTPException):
                raise
            except Exception:
                _log.exception("unexpected error on %s %s", request.method, request.url.path)
                return _error_response(_internal_error())

        return guarded


def _internal_error() -> ServingError:
    return ServingError("internal error; the server's log has it under this reply's x-request-id")


def _error_response(fault: ServingError) -> JSONResponse:
    body = ErrorBody(message=fault.message, type=fault.type, param=fault.param, code=fault.code)
    headers = {}
    if fault.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(fault.retry_after_s))
    return JSONResponse(ErrorResponse(error=body).model_dump(), fault.status, headers)


def _require_json(request: Request) -> None:
    given = request.headers.get("content-type", "")
    if given.split(";")[0].strip().lower() != "application/json":
        raise InvalidRequest(
            f"content-type: {ascii(given)[:80]} was given; it must be application/json",
            "content-type",
        )


async def _read_body(request: Request) -> bytes:
    """Read the body, counting as it comes: a chunked one declares no length."""
    size = 0
    parts: list[bytes] = []
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise BodyTooLarge(f"body: over {MAX_BODY_BYTES} bytes, the most that is allowed")
        parts.append(part)
    return b"".join(parts)


def _accepted_format(accept: str) -> OutputFormat | None:
    """The picture format that an `Accept` header prefers; None where it means JSON.

    The first type with the highest q decides, as in RFC 9110; `*/*` and all else mean JSON.
    """
    best_q, best = 0.0, ""
    for one in accept.split(","):
        media_type, *parameters = (part.strip().lower() for part in one.split(";"))
        q = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    q = float(parameter[2:])
                except ValueError:
                    q = 0.0
        if q > best_q:
            best_q, best = q, media_type
    return _OUTPUT_FORMATS.get(best.removeprefix("image/")) if best.startswith("image/") else None


def _picture_response(
    model: str, generation: Generation, picture_format: PictureFormat, drawing: Drawing
) -> Response:
    headers = {"X-Model": model, "X-Seed": str(generation.seeds[0])}
    if drawing.warnings:
        headers["X-Warnings"] = "; ".join(drawing.warnings)
    media_type = MEDIA_TYPES[picture_format.output_format]
    return Response(drawing.pictures[0], media_type=media_type, headers=headers)


def _json(
    model: str, generation: Generation, picture_format: PictureFormat, drawing: Drawing
) -> bytes:
    pairs = zip(drawing.pictures, generation.seeds, strict=True)
    reply = ImagesResponse(
        created=int(time.time()),
        model=model,
        data=[
            Image(b64_json=base64.b64encode(picture).decode("ascii"), seed=seed)
            for picture, seed in pairs
        ],
        output_format=picture_format.output_format,
        size=f"{generation.width_px}x{generation.height_px}",
        timings=drawing.timings,
        warnings=list(drawing.warnings),
    )
    return reply.model_dump_json().encode()


def _model(family: Family, variant: Variant, manifest: Manifest) -> dict[str, Any]:
    origins = manifest.origins(variant)
    return {
        "id": variant.name,
        "object": "model",
        "created": 0,  # The Images API's clients require the field; a catalogue has no date.
        "owned_by": "distilled-sd-serve",
        "family": family.name,
        "description": variant.description,
        "random_weights": any(origin.kind == "random" for origin in origins.values()),
        "licences": sorted({origin.licence for origin in origins.values()}),
        "components": {
            name: {**asdict(component), "origin": origins[name].model_dump()}
            for name, component in variant.components.items()
        },
        "defaults": {
            "size": f"{variant.default_size_px}x{variant.default_size_px}",
            "num_inference_steps": GenerationRequest.model_fields["num_inference_steps"].default,
            "guidance_scale": variant.guidance_scale,
            "scheduler": variant.default_scheduler,
        },
        "size_bounds_px": [variant.min_size_px, variant.max_size_px],
    }
