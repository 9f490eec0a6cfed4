"""Routes under `/sdapi/v1` for AUTOMATIC1111's clients; they draw as `images.py` does.

What a process remembers here is its own: the checkpoint that is set, and which requests are under
way. With several routers each has its own, and a client can't choose which one it meets.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from pydantic_core import from_json

from ...errors import MalformedBody, VariantNotFound, shown
from ...generation import LOSSLESS_PNG, SAMPLER_NAMES, Generation
from ..body import read_json
from ..edit_schemas import Picture, upload_bytes, upload_words
from ..error_responses import Route
from ..gate import require_allowed, require_own_site, take_place
from ..options import HttpOptions, UploadLimits
from ..service import Router, few_step_variants
from ..upload_memory import UploadMemory
from .dialect import (
    CONSTANT_ANSWERS,
    FIXED_OPTIONS,
    SAMPLER_ALIASES,
    A1111EditRequest,
    Img2Img,
    Txt2Img,
    checkpoint_of_options,
    parse_asked,
    reply,
)
from .jobs import Jobs


class SdError(BaseModel):
    """An error as AUTOMATIC1111's API has it."""

    error: str
    detail: str
    body: str
    errors: str


def a1111_routes(
    router: Router, options: HttpOptions, memory: UploadMemory, locks: Sequence[Any]
) -> APIRouter:
    """The routes, with `locks` as their dependencies where keys are needed."""
    routes = APIRouter(
        prefix="/sdapi/v1",
        tags=["AUTOMATIC1111"],
        dependencies=list(locks),
        route_class=Route,
    )
    jobs = Jobs()
    settings: dict[str, Any] = {
        "sd_model_checkpoint": router.default_model,
        **{option: neutral[0] for option, neutral in FIXED_OPTIONS.items()},
    }
    refused = _errors(400, 404, 408, 413, 431, *((401, 403, 429) if locks else ()))
    drawn = refused | _errors(409, 429, 500, 503, 504)

    async def draw(
        request: Request,
        given: Txt2Img,
        limits: HttpOptions = options,
        picture_px: tuple[int, int] | None = None,
        complete: Callable[[Generation], Awaitable[Generation]] | None = None,
    ) -> dict[str, Any]:
        model = given.model(settings["sd_model_checkpoint"])
        _require_offered(router, request, model)
        variant = router.variants.get(model) or next(iter(router.variants.values()))
        asked = given.as_request(model, variant).with_seed()
        if picture_px is not None and isinstance(asked, A1111EditRequest):
            asked = asked.of_size(picture_px)
        few_step = few_step_variants(router)
        choice = await router.choose(
            model, lambda variant: asked.resolve(variant, limits, few_step)
        )
        take_place(request.scope, choice.generation.variant)
        generation = choice.generation
        if complete is not None:
            generation = await complete(generation)
        drawing = await jobs.run(
            _owner(request),
            generation,
            lambda: router.forecast(choice.generation),
            lambda: router.draw(generation, LOSSLESS_PNG),
        )
        return reply(given, generation, drawing)

    @routes.post("/txt2img", responses=drawn, openapi_extra=_body(Txt2Img.model_json_schema()))
    async def draw_txt2img(request: Request) -> dict[str, Any]:
        """Draw; the variant is `override_settings`' checkpoint, or the one that is set here."""
        body = await read_json(request.headers, request.stream(), options.body_timeout_s)
        return await draw(request, parse_asked(body, Txt2Img))

    @routes.post("/img2img", responses=drawn, openapi_extra=_body(Img2Img.model_json_schema()))
    async def draw_img2img(request: Request) -> dict[str, Any]:
        """Draw from a picture, perhaps with a mask; otherwise as txt2img."""
        # In base64, four bytes stand for three.
        async with memory.reserve(request.headers, 4 * upload_bytes(options) // 3) as reserved:
            body = await read_json(
                request.headers,
                request.stream(),
                options.body_timeout_s,
                reserved.max_bytes,
                upload_words(options),
            )
            given, *pictures = await reserved.decode(_img2img, body, options)
            # Nothing of the upload is kept while it waits and is drawn: it is tens of MB.
            del body

            async def with_source(generation: Generation) -> Generation:
                return await reserved.scale(pictures.pop().fitted_to, generation)

            limits, picture_px = reserved.limits(), pictures[0].size_px
            return await draw(request, given, limits, picture_px, with_source)

    @routes.get("/sd-models", responses=refused)
    async def sd_models() -> list[dict[str, Any]]:
        """The variants, and `auto` where it is offered, as checkpoints."""
        return [
            {"title": name, "model_name": name, "hash": None, "sha256": None, "filename": name,
             "config": None}
            for name in router.models
        ]  # fmt: skip

    @routes.get("/samplers", responses=refused)
    async def samplers() -> list[dict[str, Any]]:
        """The schedulers that a served variant allows, by their names there."""
        allowed = {name for variant in router.variants.values() for name in variant.schedulers}
        return [
            {"name": name, "aliases": list(SAMPLER_ALIASES[scheduler]), "options": {}}
            for scheduler, name in SAMPLER_NAMES.items()
            if scheduler in allowed
        ]

    for path, answer in CONSTANT_ANSWERS.items():
        routes.add_api_route(path, _always(answer), responses=refused, name=path.lstrip("/"))

    @routes.get("/options", responses=refused)
    async def get_options() -> dict[str, Any]:
        """What is set in this process."""
        return settings

    @routes.post("/options", responses=refused, openapi_extra=_body({"type": "object"}))
    async def set_options(request: Request) -> dict[str, Any]:
        """Set `sd_model_checkpoint` for all clients of this process, until it ends."""
        body = await read_json(request.headers, request.stream(), options.body_timeout_s)
        try:
            given = from_json(body)
        except ValueError:
            raise MalformedBody("body: must be a JSON object in UTF-8") from None
        checkpoint = checkpoint_of_options(given, settings)
        if checkpoint not in (None, "", settings["sd_model_checkpoint"]):
            _require_offered(router, request, checkpoint)
            settings["sd_model_checkpoint"] = checkpoint
        return {}

    @routes.get("/progress", responses=refused)
    async def progress(request: Request) -> dict[str, Any]:
        """Of the caller's oldest request in this process, estimated."""
        return jobs.progress(_owner(request))

    @routes.post("/interrupt", responses=refused | _errors(403))
    async def interrupt(request: Request) -> dict[str, Any]:
        """End the caller's requests in this process; they are answered with 409."""
        require_own_site(request.headers)
        jobs.interrupt(_owner(request))
        return {}

    return routes


def _img2img(body: bytes, limits: UploadLimits) -> tuple[Img2Img, Picture]:
    given = parse_asked(body, Img2Img)
    return given.without_pictures(), given.picture(limits)


def _always(answer: Any) -> Callable[[], Awaitable[Any]]:
    async def get() -> Any:
        """The same answer always: nothing of the kind, or the only one there is."""
        return answer

    return get


def _require_offered(router: Router, request: Request, model: Any) -> None:
    """Hold a checkpoint to the models that are offered here, and to those of the request's key.

    Raises:
        VariantNotFound: it isn't offered.
        ModelNotAllowed: the key allows others only.
    """
    if model not in router.models:
        raise VariantNotFound(
            f"sd_model_checkpoint: {shown(model)} was given; allowed: {', '.join(router.models)}",
            "sd_model_checkpoint",
        )
    require_allowed(request.scope, model)


def _owner(request: Request) -> str | None:
    """The name of the request's key; None where none is needed."""
    key = request.scope.get("state", {}).get("key")
    return None if key is None else str(key.name)


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": SdError} for status in statuses}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}
