"""Builds the HTTP application over a `Router`: middleware and routers.

It knows no Ray, so it can be tested in one process.
"""

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from ..keys import KeyFile
from .a1111.routes import a1111_routes
from .browser_headers import BrowserHeaders
from .docs import docs_routes
from .edits import edit_routes
from .error_responses import Route, add_error_handlers, refuse
from .gate import Gate
from .head import HeadAsGet
from .images import image_routes
from .models import model_routes
from .options import HttpOptions
from .playground import page_routes
from .service import Router
from .upload_memory import UploadMemory


def build_api(router: Router, options: HttpOptions, keys: KeyFile | None = None) -> FastAPI:
    """The application over a router; without `keys`, requests need no API key."""
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
    api.add_middleware(
        Gate, refuse=refuse, options=options, keys=keys, variants=len(router.variants)
    )
    api.add_middleware(BrowserHeaders)
    api.add_middleware(HeadAsGet)
    # Only tells the OpenAPI document of the keys; the gate has checked them.
    locks = [] if keys is None else [Security(HTTPBearer(auto_error=False))]
    memory = UploadMemory(options)
    api.include_router(docs_routes(api.title))
    api.include_router(image_routes(router, options, locks))
    api.include_router(edit_routes(router, options, memory, locks))
    api.include_router(model_routes(router, options, locks))
    if options.playground:
        api.include_router(page_routes())
    if options.a1111:
        api.include_router(a1111_routes(router, options, memory, locks))
    return api
