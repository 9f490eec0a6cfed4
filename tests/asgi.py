"""Requests to an ASGI application in this process, without a server."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx


def client_of(app: Any, key: str | None = None) -> httpx.AsyncClient:
    """A client that presents `key` with every request."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers=headers
    )


def call(app: Any, method: str, url: str, key: str | None = None, **args: Any) -> httpx.Response:
    async def request() -> httpx.Response:
        async with client_of(app, key) as client:
            return await client.request(method, url, **args)

    return asyncio.run(request())


def with_scope(app: Any, changes: Mapping[str, Any]) -> Any:
    """The application behind a server that says otherwise of each request."""

    async def changed(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, **changes}, receive, send)

    return changed
