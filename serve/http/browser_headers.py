"""Security headers middleware, outside all others: headers that browsers obey, on every answer.

No answer names an origin that may read it (CORS): pages of other hosts can't use this API.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

_Message = MutableMapping[str, Any]
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # What is no page loads nothing and is shown in no frame; pages bring policies of their own.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


class BrowserHeaders:
    """Plain ASGI round an application: adds each header that an answer doesn't have yet."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """One request, or what else a server tells."""

        async def send_more(message: _Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                names = {name.lower() for name, _ in given}
                added = [one for one in _HEADERS if one[0] not in names]
                message = {**message, "headers": [*given, *added]}
            await send(message)

        await self._app(scope, receive, send_more)
