"""HEAD middleware, outside all others: a HEAD request is a GET without the body of its answer."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any


class HeadAsGet:
    """ASGI middleware that answers HEAD on every route that answers GET (RFC 9110, 9.3.2)."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_without_body(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"}, receive, send_without_body)
