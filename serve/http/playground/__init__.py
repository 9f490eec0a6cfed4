"""The page at `/`: one prompt in all variants side by side, from static files.

Everything that it does it does through the public API, from the browser. Its policy lets it run
its own files and reach its own host, nothing else. It is a form, three cards and a slider, so
it has no framework and no build step: the files here are what runs.
"""

import hashlib
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

_FOLDER = Path(__file__).parent
_MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            # Pictures and previews are blobs, made from the events of a stream.
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept by browsers, but asked about each time: a new version is seen at once.
    "Cache-Control": "no-cache",
}


class _File:
    """One file, in memory. Its ETag is its content's, so that all replicas give the same."""

    def __init__(self, path: Path) -> None:
        self.body = path.read_bytes()
        self.media_type = _MEDIA_TYPES[path.suffix]
        self.headers = {**_HEADERS, "ETag": f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'}

    async def __call__(self, request: Request) -> Response:
        known = request.headers.get("if-none-match", "")
        # A proxy that compresses makes the tag a weak one.
        if self.headers["ETag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
            return Response(status_code=304, headers=self.headers)
        return Response(self.body, headers=self.headers, media_type=self.media_type)


def page_routes() -> APIRouter:
    """`/`, and what it loads from below `/playground/`."""
    router = APIRouter()
    for path in sorted(_FOLDER.iterdir()):
        if path.suffix in _MEDIA_TYPES:
            url = "/" if path.name == "index.html" else f"/playground/{path.name}"
            router.add_route(url, _File(path).__call__, ["GET", "HEAD"], include_in_schema=False)
    return router
