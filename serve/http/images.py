"""`POST /v1/images/generations`: JSON, one picture's bytes by `Accept`, or a stream of events."""

import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict, replace
from typing import Any, get_args

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from ..errors import InvalidRequest, ServingError
from ..generation import Choice, Drawing, Generation, OutputFormat, PictureFormat, Timings
from .base64_json import PICTURE, with_pictures
from .body import read_json
from .error_responses import Route, errors, internal_error
from .gate import require_allowed, take_place
from .negotiation import Answer, negotiate, negotiate_stream
from .options import HttpOptions
from .schemas import GenerationRequest, Image, ImagesResponse, parse_request
from .service import Router, few_step_variants
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


def image_routes(router: Router, options: HttpOptions, locks: Sequence[Any]) -> APIRouter:
    """The route, with `locks` as its dependencies where keys are needed."""
    routes = APIRouter(route_class=Route)

    @routes.post(
        "/v1/images/generations",
        dependencies=list(locks),
        response_model=ImagesResponse,
        responses=drawn_responses(locks),
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
        body = await read_json(request.headers, request.stream(), options.body_timeout_s)
        return await answer_request(request, router, options, parse_request(body))

    return routes


def drawn_responses(locks: Sequence[Any]) -> dict[int | str, dict[str, Any]]:
    """What a route that draws may answer, for its documentation."""
    return {
        200: {"content": {media_type: {} for media_type in get_args(Answer)[1:]}},
        **errors(400, 404, 406, 408, 413, 429, 431, 500, 503, 504),
        **(errors(401, 403) if locks else {}),
    }


async def answer_request(
    request: Request,
    router: Router,
    options: HttpOptions,
    asked: GenerationRequest,
    complete: Callable[[Generation], Awaitable[Generation]] | None = None,
) -> Response:
    """Draw what a parsed request asks for; `complete` adds what the choice of a variant needn't."""
    answer = _negotiate(", ".join(request.headers.getlist("accept")), asked)
    picture_format = asked.picture_format(_OUTPUT_FORMATS.get(answer))
    model = router.default_model if asked.model is None else asked.model
    if model in router.models:  # Else `choose` refuses it, whatever the key.
        require_allowed(request.scope, model)
    asked = asked.with_seed()
    few_step = few_step_variants(router)
    choice = await router.choose(model, lambda variant: asked.resolve(variant, options, few_step))
    take_place(request.scope, choice.generation.variant)
    _log_user(asked)
    if complete is not None:
        choice = replace(choice, generation=await complete(choice.generation))
    if asked.stream:
        return await _stream_response(router, choice, picture_format)
    drawing = await router.draw(choice.generation, picture_format)
    headers = _headers(choice, drawing.timings, drawing.warnings)
    if answer in _OUTPUT_FORMATS:
        return Response(drawing.pictures[0], media_type=answer, headers=headers)
    # Not on a thread: base64 holds the interpreter's lock all the same.
    reply = _json(choice, picture_format, drawing)
    return Response(reply, media_type="application/json", headers=headers)


def _negotiate(accept: str, asked: GenerationRequest) -> Answer:
    if asked.stream:
        return negotiate_stream(accept)
    answer = negotiate(accept, asked.output_format)
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


def _log_user(asked: GenerationRequest) -> None:
    """Log the hash of the end user that a request names, so that abuse can be traced."""
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
