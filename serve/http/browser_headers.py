"""Security headers middleware, outside all others: headers that browsers obey, on every answer.

No answer names an origin that may read it (CORS): pages of other hosts can't use this API.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Message = MutableMapping[str, Any]
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # For responses that aren't pages; pages have policies of their own.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class BrowserHeaders:
    """ASGI middleware that adds each of the headers that a response doesn't have yet."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI scope."""

        async def send_more(message: _Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                added = [(name, value) for name, value in _HEADERS if name not in names]
                message = {**message, "headers": [*given, *added]}
            await send(message)

        await self._app(scope, receive, send_more)
