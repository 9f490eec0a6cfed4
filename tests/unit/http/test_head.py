"""HEAD, seen as a server sees the answer: most clients hide a body that must not be there."""

from typing import Any

from serve.http.head import HeadAsGet


async def sent(method: str) -> tuple[str, list[dict[str, Any]]]:
    """The method that the application sees, and what goes to the server."""
    seen: list[str] = []
    messages: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["method"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"a picture"})

    async def send(message: Any) -> None:
        messages.append(message)

    await HeadAsGet(app)({"type": "http", "method": method}, None, send)
    return seen[0], messages


async def test_head_is_a_get_whose_body_does_not_go_out() -> None:
    method, (start, body) = await sent("HEAD")
    assert (method, start["status"], body["body"]) == ("GET", 200, b"")


async def test_other_methods_are_left_alone() -> None:
    method, (_, body) = await sent("POST")
    assert (method, body["body"]) == ("POST", b"a picture")
