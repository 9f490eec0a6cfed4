"""`GET /v1/models`, `/healthz` and `/readyz`: what is served, and whether it can be."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from ..errors import VariantNotFound, shown
from ..generation import SchedulerName
from ..replica_info import ReplicaInfo
from ..variants import Family, Variant
from ..weights.manifest import Manifest
from .error_responses import Route, errors
from .options import HttpOptions
from .schemas import SIZE_STEP_PX, bounds
from .service import Router


class VariantModel(BaseModel):
    """A served variant: what it is made of, and the defaults and bounds of its requests."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(0, description="The Images API's clients want it; nothing here is dated.")
    owned_by: str = "distilled-sd-serve"
    family: str
    description: str
    random_weights: bool
    licences: list[str]
    components: dict[str, dict[str, Any]] = Field(
        description="By the names that diffusers gives them: folder, class, source and origin."
    )
    defaults: dict[str, Any]
    schedulers: list[SchedulerName] = Field(description="Those that it allows.")
    size_bounds_px: tuple[int, int]
    size_step_px: int = SIZE_STEP_PX
    bounds: dict[str, tuple[int | float, int | float]] = Field(
        description="The least and the most of each number, and of each text's length."
    )
    replica: ReplicaInfo | None = Field(
        description="What one of its replicas says of itself: device, memory, optimisations that "
        "are on or were left off, seconds of its preparation; null where none answers at once."
    )


class ModelList(BaseModel):
    """The served variants, and who draws requests without a `model`."""

    object: Literal["list"] = "list"
    data: list[VariantModel]
    default_model: str
    auto: dict[str, Any] | None = Field(description="The policy of `auto`, where it is offered.")


def model_routes(router: Router, options: HttpOptions, locks: Sequence[Any]) -> APIRouter:
    """The routes, with `locks` as the dependencies of those that need a key."""
    routes = APIRouter(route_class=Route)

    @routes.get(
        "/v1/models",
        dependencies=list(locks),
        responses={
            **_example(
                {"object": "list", "data": [{"id": "original"}], "default_model": "original"}
            ),
            **errors(400, 431, *((401, 429) if locks else ())),
        },
    )
    async def list_models() -> ModelList:
        """The served variants, what each is made of, and the defaults of its requests."""
        info = await router.replica_info()
        return ModelList(
            data=[
                _model(router.family, variant, router.manifest, info[variant.name])
                for variant in router.variants.values()
            ],
            default_model=router.default_model,
            auto=None if router.auto is None else router.auto.model_dump(),
        )

    @routes.get(
        "/v1/models/{model}",
        dependencies=list(locks),
        responses={
            **_example({"object": "model", "id": "original"}),
            **errors(400, 404, 431, *((401, 429) if locks else ())),
        },
        # Not an argument of the function, for which FastAPI would document a 422 of its own.
        openapi_extra={
            "parameters": [
                {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
            ]
        },
    )
    async def get_model(request: Request) -> VariantModel:
        """One served variant, as in the list."""
        model = request.path_params["model"]
        if model not in router.variants:
            allowed = ", ".join(shown(name) for name in router.variants)
            raise VariantNotFound(f"model: {shown(model)} was given; allowed: {allowed}", "model")
        info = await router.replica_info()
        return _model(router.family, router.variants[model], router.manifest, info[model])

    @routes.get("/healthz", responses=_example({"status": "ok"}))
    async def healthz() -> dict[str, str]:
        """Alive: the router answers."""
        return {"status": "ok"}

    @routes.get(
        "/readyz",
        responses={
            **_example({"ready": True, "warm_replicas": {"original": 1}, "minimum": 1}),
            503: {"description": "a variant lacks warm replicas"},
        },
    )
    async def readyz() -> JSONResponse:
        """Ready: every variant has at least its configured minimum of warm replicas."""
        replicas = await router.warm_replicas()
        ready = all(count >= options.min_ready_replicas for count in replicas.values())
        content = {
            "ready": ready,
            "warm_replicas": replicas,
            "minimum": options.min_ready_replicas,
        }
        return JSONResponse(content, status_code=200 if ready else 503)

    return routes


def _example(value: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": value}}}}


def _model(
    family: Family, variant: Variant, manifest: Manifest, info: ReplicaInfo | None
) -> VariantModel:
    origins = manifest.origins(variant)
    return VariantModel(
        id=variant.name,
        family=family.name,
        description=variant.description,
        random_weights=any(origin.kind == "random" for origin in origins.values()),
        licences=sorted({origin.licence for origin in origins.values()}),
        components={
            name: {**asdict(component), "origin": origins[name].model_dump()}
            for name, component in variant.components.items()
        },
        defaults={
            "size": f"{variant.default_size_px}x{variant.default_size_px}",
            "num_inference_steps": variant.default_steps,
            "guidance_scale": variant.guidance_scale,
            "scheduler": variant.default_scheduler,
        },
        size_bounds_px=(variant.min_size_px, variant.max_size_px),
        schedulers=list(variant.schedulers),
        bounds=bounds()
        | {
            "num_inference_steps": (1, variant.max_steps),
            "guidance_scale": (0, variant.max_guidance_scale),
        },
        replica=info,
    )
