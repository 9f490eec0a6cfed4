"""Exception handlers: an error becomes a status and a body, in the dialect of the request.

All routes have the class `Route`. The gate knows no HTTP framework and is given `refuse`.
"""

import logging
import math
from collections.abc import Callable, Coroutine, MutableMapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match, Mount

from ..errors import (
    HeadersTooLarge,
    InvalidApiKey,
    MethodNotAllowed,
    RequestTimeout,
    RouteNotFound,
    ServingError,
)
from .a1111.dialect import error_body
from .gate import App, is_sdapi
from .schemas import ErrorBody, ErrorResponse

_log = logging.getLogger("ray.serve")  # Serve adds the request's id to this logger's lines.


class Route(APIRoute):
    """A route whose unexpected errors are logged here and never shown to the client."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with what it doesn't expect answered as `internal_error`."""
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except (ServingError, HTTPException):
                raise
            except ClientDisconnect:
                return Response(status_code=499)  # Nobody reads it; nginx's number for the log.
            except Exception:
                _log.exception("unexpected error on %s %r", request.method, request.scope["path"])
                return _error_response(internal_error(), request.scope)

        return guarded


def add_error_handlers(api: FastAPI) -> None:
    """Answer what routes raise, and requests that no route takes."""

    @api.exception_handler(ServingError)
    async def serving_error(request: Request, fault: Exception) -> JSONResponse:
        known = fault if isinstance(fault, ServingError) else internal_error()
        return _error_response(known, request.scope)

    @api.exception_handler(HTTPException)
    async def http_error(request: Request, fault: Exception) -> Response:
        # Not `request.url`: a query that is no UTF-8 raises there.
        path, method = ascii(request.scope["path"])[:80], request.method[:80]
        if isinstance(fault, HTTPException) and fault.status_code == 405:
            allow = {"Allow": ", ".join(_allowed_methods(request))}
            if method == "OPTIONS":
                return Response(status_code=204, headers=allow)
            not_allowed = MethodNotAllowed(f"{method} is not allowed on {path}")
            refused = _error_response(not_allowed, request.scope)
            refused.headers.update(allow)
            return refused
        unknown = RouteNotFound(f"{path}: no such route; GET /docs lists them")
        return _error_response(unknown, request.scope)


def _allowed_methods(request: Request) -> list[str]:
    """What the path may be asked with; Starlette's own answer knows one route of a path only."""
    # As the request came: a mounted application has changed the root path.
    root_path = request.scope.get("app_root_path", request.scope.get("root_path", ""))
    methods = [
        method
        for method in ("GET", "POST")
        for route in request.app.routes
        if route.matches({**request.scope, "root_path": root_path, "method": method})[0]
        is Match.FULL
        # Only files are mounted; a mount itself takes every method.
        and not (isinstance(route, Mount) and method == "POST")
    ]
    return sorted({*methods, "OPTIONS", *(["HEAD"] if "GET" in methods else [])})


def refuse(fault: ServingError) -> App:
    """An application that answers with the error, whatever is asked."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await _error_response(fault, scope)(scope, receive, send)

    return answer


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route's documentation says of its errors."""
    return {status: {"model": ErrorResponse} for status in statuses}


def internal_error() -> ServingError:
    """The error for an unexpected exception, which says where to look it up."""
    return ServingError("internal error; the server's log has it under this reply's x-request-id")


def _error_response(fault: ServingError, scope: MutableMapping[str, Any]) -> JSONResponse:
    """In the dialect of the request."""
    if is_sdapi(scope):
        content: dict[str, Any] = error_body(fault)
    else:
        content = ErrorResponse(error=ErrorBody.of(fault)).model_dump()
    headers = {}
    if fault.retry_after_s is not None:
        headers["Retry-After"] = str(math.ceil(fault.retry_after_s))
    if isinstance(fault, InvalidApiKey):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(fault, RequestTimeout | HeadersTooLarge):
        headers["Connection"] = "close"  # Else the client holds on to it.
    return JSONResponse(content, fault.status, headers)
