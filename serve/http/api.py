"""Builds the HTTP application over a `Router`: middleware and routers.

It knows no Ray, so it can be tested in one process.
"""

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from .a1111.routes import a1111_routes
from .browser_headers import BrowserHeaders
from .docs import docs_routes
from .error_responses import Route, add_error_handlers, refuse
from .gate import ClientLimits, Gate
from .images import image_routes
from .models import model_routes
from .playground import page_routes
from .service import Router


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
    api.include_router(
        image_routes(router, max_image_steps, max_request_s, limits.body_timeout_s, locks)
    )
    api.include_router(model_routes(router, min_ready_replicas, locks))
    if playground:
        api.include_router(page_routes())
    if a1111:
        api.include_router(
            a1111_routes(router, max_image_steps, max_request_s, limits.body_timeout_s, locks)
        )
    return api
