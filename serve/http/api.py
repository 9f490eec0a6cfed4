"""The HTTP face, behind the gate: routes, and what `Accept` asks of them.

Knows the router as a protocol and no Ray, so that it can be tested in one process.
"""

import hashlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict
from typing import Any, Protocol, get_args

from fastapi import FastAPI, Request, Security
from fastapi.responses import JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

from ..errors import InvalidRequest, ServingError
from ..generation import (
    Choice,
    Drawing,
    Generation,
    OutputFormat,
    PictureEvent,
    PictureFormat,
    Timings,
)
from ..variants import Family, Variant
from ..weights.manifest import Manifest
from .a1111.routes import webui_routes
from .base64_json import PICTURE, with_pictures
from .browser_headers import BrowserHeaders
from .docs import docs_routes
from .error_responses import Route, add_error_handlers, internal_error, refuse
from .gate import ClientLimits, Gate, read_json, require_allowed
from .negotiation import Answer, negotiate, picture_answers
from .playground import page_routes
from .schemas import (
    SIZE_STEP_PX,
    ErrorResponse,
    GenerationRequest,
    Image,
    ImagesResponse,
    bounds,
    parse_request,
)
from .streaming import DONE, sse, sse_error, with_heartbeats

_OUTPUT_FORMATS: dict[str, OutputFormat] = {
    "image/png": "png",
    "image/jpeg": "jpeg",
    "image/webp": "webp",
}
_log = logging.getLogger("ray.serve")  # Serve adds the request's id to this logger's lines.
_REQUEST_EXAMPLES = {
    "a picture": {
        "value": {"model": "distilled", "prompt": "a golden vase with different flowers", "seed": 7}
    },
    "previews on the way": {
        "value": {"prompt": "a golden vase", "stream": True, "partial_images": 3}
    },
}


def _example(value: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": value}}}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorResponse} for status in statuses}


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

    @property
    def auto(self) -> BaseModel | None:
        """The policy that decides for `model: "auto"`, if there is one."""

    async def choose(self, model: str, resolve: Callable[[Variant], Generation]) -> Choice:
        """Decide who draws; raises `VariantNotFound`, and what `resolve` raises."""

    async def draw(self, generation: Generation, picture_format: PictureFormat) -> Drawing:
        """Have a replica draw; raises `ServingError`."""

    def stream(
        self, generation: Generation, picture_format: PictureFormat
    ) -> AsyncIterator[PictureEvent]:
        """Have a replica draw, and tell what it makes on the way; raises `ServingError`."""

    async def warm_replicas(self) -> dict[str, int]:
        """How many replicas of each variant are warm."""


def build_api(
    router: Router,
    max_image_steps: int,
    min_ready_replicas: int,
    max_request_s: float | None = None,
    limits: ClientLimits = ClientLimits(),  # noqa: B008 (frozen)
    playground: bool = True,
    a1111: bool = False,
) -> FastAPI:
    """The application over a router.

    With the page at `/` where `playground` is true, and `/sdapi/v1` where `a1111` is.

    `max_image_steps` and `max_request_s` bound one request's work and time
    (`GenerationRequest.resolve`); `/readyz` wants `min_ready_replicas` warm replicas of every
    variant; `limits` is what clients are held to.
    """
    # Offline: it serves Swagger's files, so that `/docs` works without a network.
    api: FastAPI = FastAPIOffline(
        title="distilled-sd-serve",
        description="Stable Diffusion v1, distilled, and with a tiny VAE, behind one endpoint.",
        version="1",
        docs_url=None,
        redoc_url=None,
        # A redirect would lead to whatever host the request names.
        redirect_slashes=False,
    )
    api.router.route_class = Route
    add_error_handlers(api)
    api.add_middleware(Gate, refuse=refuse, limits=limits)
    api.add_middleware(BrowserHeaders)
    api.include_router(docs_routes(api.title))
    # Only tells the OpenAPI document of the keys; the gate has checked them.
    locks = [] if limits.keys is None else [Security(HTTPBearer(auto_error=False))]
    if playground:
        api.include_router(page_routes())
    if a1111:
        api.include_router(
            webui_routes(router, max_image_steps, max_request_s, limits.body_timeout_s, locks)
        )

    @api.post(
        "/v1/images/generations",
        dependencies=locks,
        response_model=ImagesResponse,
        responses={
            200: {"content": {media_type: {} for media_type in get_args(Answer)[1:]}},
            **_errors(400, 404, 406, 408, 413, 429, 431, 500, 503, 504),
            **(_errors(401, 403) if locks else {}),
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": GenerationRequest.model_json_schema(),
                        "examples": _REQUEST_EXAMPLES,
                    }
                },
            }
        },
    )
    async def generate_images(request: Request) -> Response:
        """Draw one or more images: JSON, one picture's bytes by `Accept`, or a stream of events."""
        body = await read_json(request.headers, request.stream(), limits.body_timeout_s)
        asked = parse_request(body)
        answer = _negotiate(request.headers.get("accept", "*/*"), asked)
        picture_format = asked.picture_format(_OUTPUT_FORMATS.get(answer))
        choice = await router.choose(
            asked.model, lambda variant: asked.resolve(variant, max_image_steps, max_request_s)
        )
        # A key for some variants must name one: what `auto` takes is not its to say.
        require_allowed(request.scope, asked.model)
        _log_whose(asked)
        if asked.stream:
            return await _stream_response(router, choice, picture_format)
        drawing = await router.draw(choice.generation, picture_format)
        headers = _headers(choice, drawing.timings, drawing.warnings)
        if answer in _OUTPUT_FORMATS:
            return Response(drawing.pictures[0], media_type=answer, headers=headers)
        # Not on a thread: base64 holds the interpreter's lock all the same.
        reply = _json(choice, picture_format, drawing)
        return Response(reply, media_type="application/json", headers=headers)

    @api.get(
        "/v1/models",
        dependencies=locks,
        responses={
            **_example({"object": "list", "data": [{"id": "original"}]}),
            **_errors(400, 431, *((401, 429) if locks else ())),
        },
    )
    async def list_models() -> dict[str, Any]:
        """The served variants, what each is made of, and the defaults of its requests."""
        return {
            "object": "list",
            "data": [
                _model(router.family, variant, router.manifest)
                for variant in router.variants.values()
            ],
            "auto": None if router.auto is None else router.auto.model_dump(),
        }

    @api.get("/healthz", responses=_example({"status": "ok"}))
    async def healthz() -> dict[str, str]:
        """Alive: the router answers."""
        return {"status": "ok"}

    @api.get(
        "/readyz",
        responses={
            **_example({"ready": True, "warm_replicas": {"original": 1}, "minimum": 1}),
            503: {"description": "a variant lacks warm replicas"},
        },
    )
    async def readyz() -> JSONResponse:
        """Ready: every variant has at least its configured minimum of warm replicas."""
        replicas = await router.warm_replicas()
        ready = all(count >= min_ready_replicas for count in replicas.values())
        content = {"ready": ready, "warm_replicas": replicas, "minimum": min_ready_replicas}
        return JSONResponse(content, status_code=200 if ready else 503)

    return api


def _negotiate(accept: str, asked: GenerationRequest) -> Answer:
    if asked.stream:
        # Clients that stream say either; what they get is a stream.
        return negotiate(accept, ("text/event-stream", "application/json"))
    answer = negotiate(accept, ("application/json", *picture_answers(asked.output_format)))
    if answer != "application/json" and asked.n != 1:
        raise InvalidRequest(
            f"n: {asked.n} was given, but the Accept header asks for one picture's bytes, "
            "which allows only 1; accept application/json for more",
            "n",
        )
    return answer


async def _stream_response(
    router: Router, choice: Choice, picture_format: PictureFormat
) -> Response:
    """Begin a stream, unless it fails within the first moment: that gets a status."""
    events = with_heartbeats(router.stream(choice.generation, picture_format))
    first = await anext(events)

    async def body() -> AsyncIterator[bytes]:
        try:
            yield sse(first, choice, picture_format)
            async for event in events:
                yield sse(event, choice, picture_format)
            yield DONE
        except ServingError as fault:
            yield sse_error(fault)
        except Exception:
            _log.exception("unexpected error in a stream")
            yield sse_error(internal_error())
        finally:
            await events.aclose()

    headers = {
        **_headers(choice),
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx would hold events back.
    }
    return StreamingResponse(body(), media_type="text/event-stream", headers=headers)


def _headers(
    choice: Choice, timings: Timings | None = None, warnings: Sequence[str] = ()
) -> dict[str, str]:
    generation = choice.generation
    headers = {"X-Model": generation.variant, "X-Seed": str(generation.seeds[0])}
    if choice.reason is not None:
        headers["X-Model-Reason"] = choice.reason
    if timings is not None:
        # The standard's unit is milliseconds.
        headers["Server-Timing"] = ", ".join(
            f"{stage.removesuffix('_s')};dur={1000 * seconds:.1f}"
            for stage, seconds in asdict(timings).items()
        )
    if warnings:
        headers["X-Warnings"] = "; ".join(warnings)
    return headers


def _log_whose(asked: GenerationRequest) -> None:
    """Log on whose behalf a request is made, hashed, so that abuse can be traced."""
    for field, value in (("user", asked.user), ("safety_identifier", asked.safety_identifier)):
        if value is not None:
            _log.info("%s %s", field, hashlib.sha256(value.encode()).hexdigest()[:16])


def _json(choice: Choice, picture_format: PictureFormat, drawing: Drawing) -> bytes:
    generation = choice.generation
    pairs = zip(drawing.pictures, generation.seeds, strict=True)
    reply = ImagesResponse(
        created=int(time.time()),
        model=generation.variant,
        model_reason=choice.reason,
        data=[
            Image(b64_json=None, seed=seed, flagged=True)
            if picture is None
            else Image(b64_json=PICTURE, seed=seed)
            for picture, seed in pairs
        ],
        output_format=picture_format.output_format,
        size=f"{generation.width_px}x{generation.height_px}",
        timings=drawing.timings,
        warnings=list(drawing.warnings),
    )
    drawn = (picture for picture in drawing.pictures if picture is not None)
    return with_pictures(reply.model_dump_json(), drawn)


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
        "size_step_px": SIZE_STEP_PX,
        "bounds": bounds(),
    }
