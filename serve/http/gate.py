"""The middleware before all routes: checks a request's headers, its API key and the key's limits.

Plain ASGI, without FastAPI. `api` adds it and tells it how errors are answered.
"""

import base64
import binascii
import contextlib
import logging
from collections import Counter
from collections.abc import (
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
)
from typing import Any

from ..errors import (
    CrossSiteRequest,
    HeadersTooLarge,
    InvalidApiKey,
    InvalidRequest,
    ModelNotAllowed,
    ServingError,
    TooManyRequests,
    shown,
)
from ..keys import Key, KeyFile
from .options import HttpOptions

# What HAProxy holds requests to (`tune.http.maxhdr`, `tune.bufsize`); uvicorn has no such limits.
MAX_HEADERS = 100
MAX_HEADER_BYTES = 16 * 1024
# Serve obeys these from anybody: the first lifts its time limit, the second lets abandoned work
# go on.
_FORBIDDEN_HEADERS = ("x-request-timeout-seconds", "x-request-disconnect-disabled")
# Everything else needs a key, what doesn't exist included.
_OPEN_PATHS = ("/", "/healthz", "/readyz", "/docs", "/openapi.json")
_OPEN_FOLDERS = ("/playground/", "/static-offline-docs/")
_log = logging.getLogger("ray.serve")  # Serve adds the request's id to this logger's lines.

_Messages = MutableMapping[str, Any]
_Headers = Iterable[tuple[bytes, bytes]]
App = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[_Messages]],
        Callable[[_Messages], Awaitable[None]],
    ],
    Awaitable[None],
]


class Gate:
    """Middleware that lets a request in, or refuses it before anything was read or done.

    A request holds its key's places until its answer has ended, a stream's included, or its client
    has left: one in all from its head on, and one of its variant's once that is known
    (`take_place`). They are counted by variant so that requests which wait for a variant without
    replicas don't keep their key's others out. The key itself goes no further than here.

    Args:
        app: what is behind.
        refuse: makes an error's answer.
        options: the limits; `max_requests_per_key` counts in this process.
        keys: the API keys; with None, requests need no key.
        variants: how many are served. A key has as many times `max_requests_per_key` in all.
    """

    def __init__(
        self,
        app: App,
        refuse: Callable[[ServingError], App],
        options: HttpOptions,
        keys: KeyFile | None,
        variants: int,
    ) -> None:
        self._app, self._refuse, self._options, self._keys = app, refuse, options, keys
        self._variants = variants
        # By key and variant; None for all of a key's.
        self._under_way: Counter[tuple[str, str | None]] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Handle one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with contextlib.ExitStack() as places:
            try:
                _check_headers(scope["headers"])
                if self._keys is not None and not _is_open(scope):
                    key = _authenticated(scope["headers"], self._keys, basic=is_sdapi(scope))
                    _log.info("key %s", key.name)
                    places.enter_context(self._place(key, None))
                    scope = _with_key(
                        scope, key, lambda variant: places.enter_context(self._place(key, variant))
                    )
            except ServingError as fault:
                await self._refuse(fault)(scope, receive, send)
                return
            await self._app(scope, receive, send)

    @contextlib.contextmanager
    def _place(self, key: Key, variant: str | None) -> Iterator[None]:
        place, most = (key.name, variant), self._options.max_requests_per_key
        if most is not None:
            most, for_variant = (
                (most * self._variants, "") if variant is None else (most, f" for {shown(variant)}")
            )
            if self._under_way[place] >= most:
                raise TooManyRequests(
                    f"key {shown(key.name)} has {most} requests{for_variant} under way, the most "
                    "that are allowed at once; retry when one has ended",
                    self._options.retry_after_s,
                )
        self._under_way[place] += 1
        try:
            yield
        finally:
            self._under_way[place] -= 1
            if not self._under_way[place]:
                del self._under_way[place]


def require_allowed(scope: MutableMapping[str, Any], model: str) -> None:
    """Hold a request that came through the gate to the variants of its key.

    A key for some variants may not leave the choice to `auto`.

    Raises:
        ModelNotAllowed: another variant.
    """
    key: Key | None = scope.get("state", {}).get("key")
    if key is not None and key.variants is not None and not key.allows(model):
        raise ModelNotAllowed(
            f"model: {shown(model)} would draw; key {shown(key.name)} allows: "
            f"{', '.join(sorted(key.variants))}",
            "model",
        )


def require_own_site(headers: Mapping[str, str]) -> None:
    """Refuse what a page of another host has a browser send.

    For routes whose body may be a form, or that need none: any page may send those.

    Raises:
        CrossSiteRequest: a browser says that one did; clients that are none say nothing.
    """
    site = headers.get("sec-fetch-site", "none")
    # Over plain HTTP browsers say nothing of the site, but name the page's origin.
    origin = headers.get("origin")
    elsewhere = origin is not None and origin.partition("://")[2] != headers.get("host", "")
    if site not in ("same-origin", "none") or elsewhere:
        raise CrossSiteRequest("origin: pages of other hosts may not send this request")


def take_place(scope: MutableMapping[str, Any], variant: str) -> None:
    """Count a request that came through the gate among its key's for a variant, until it ends.

    Raises:
        TooManyRequests: the key has as many for this variant as it may.
    """
    take = scope.get("state", {}).get("take_place")
    if take is not None:
        take(variant)


def _check_headers(headers: _Headers) -> None:
    size = 0
    for count, (name, value) in enumerate(headers, 1):
        size += len(name) + len(value)
        if count > MAX_HEADERS or size > MAX_HEADER_BYTES:
            raise HeadersTooLarge(
                f"headers: more than {MAX_HEADERS}, or than {MAX_HEADER_BYTES} bytes of them, "
                "the most that are allowed"
            )
    for forbidden in _FORBIDDEN_HEADERS:
        if any(name.lower() == forbidden.encode() for name, _ in headers):
            raise InvalidRequest(f"{forbidden}: was sent; this header is not allowed", forbidden)


def is_sdapi(scope: MutableMapping[str, Any]) -> bool:
    """Whether a request is in AUTOMATIC1111's dialect, and wants its answers so."""
    return _path(scope).startswith("/sdapi/")


def _path(scope: MutableMapping[str, Any]) -> str:
    """The path below the mount point, as Starlette matches its routes."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    return path.removeprefix(root) if root and path.startswith(f"{root}/") else path


def _is_open(scope: MutableMapping[str, Any]) -> bool:
    path = _path(scope)
    return path in _OPEN_PATHS or path.startswith(_OPEN_FOLDERS)


def _authenticated(headers: _Headers, keys: KeyFile, *, basic: bool) -> Key:
    """The key that was presented; with `basic` it may be the password of HTTP's basic scheme."""
    given = [value for name, value in headers if name.lower() == b"authorization"]
    scheme, _, presented = given[0].strip().partition(b" ") if len(given) == 1 else (b"", b"", b"")
    if basic and scheme.lower() == b"basic":
        scheme, presented = b"bearer", _password(presented)
    if scheme.lower() != b"bearer":
        raise InvalidApiKey("no API key was given; send it as Authorization: Bearer KEY")
    key = keys.find(presented.strip())
    if key is None:
        raise InvalidApiKey("the API key that was given is not known here")
    return key


def _password(credentials: bytes) -> bytes:
    try:
        _, _, password = base64.b64decode(credentials, validate=True).partition(b":")
    except binascii.Error:
        return b""
    return password


def _with_key(
    scope: MutableMapping[str, Any], key: Key, take_place: Callable[[str], None]
) -> dict[str, Any]:
    return {
        **scope,
        # What isn't there can't be logged.
        "headers": [
            (name, value) for name, value in scope["headers"] if name.lower() != b"authorization"
        ],
        "state": {**scope.get("state", {}), "key": key, "take_place": take_place},
    }
