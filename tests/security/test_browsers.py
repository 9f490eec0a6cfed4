"""What a browser may do with the answers: pages of other hosts nothing, our own only their own."""

import base64
import hashlib
import re

import httpx
import pytest
from fastapi import FastAPI

from serve.errors import ServingError
from serve.http.api import build_api
from serve.http.options import HttpOptions
from tests.asgi import call, with_scope
from tests.unit.http.test_api import URL, FakeRouter, assert_openai_error
from tests.unit.http.test_edits import picture

ORIGIN = "https://evil.example"
EVERYWHERE = [
    ("GET", "/"),
    ("GET", "/playground/page.js"),
    ("GET", "/docs"),
    ("GET", "/static-offline-docs/swagger-ui.css"),
    ("GET", "/openapi.json"),
    ("GET", "/v1/models"),
    ("POST", URL),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/nothing"),
]


@pytest.fixture
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture
def app(router: FakeRouter) -> FastAPI:
    return build_api(router, HttpOptions())


@pytest.mark.parametrize(("method", "url"), EVERYWHERE)
def test_no_page_of_another_host_may_read_an_answer(app: FastAPI, method: str, url: str) -> None:
    arguments = {"json": {"prompt": "x"}} if method == "POST" else {}
    response = call(app, method, url, headers={"origin": ORIGIN}, **arguments)
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert ORIGIN not in response.text


@pytest.mark.parametrize(("method", "url"), EVERYWHERE)
def test_no_page_of_another_host_may_send_what_needs_to_be_asked_for(
    app: FastAPI, router: FakeRouter, method: str, url: str
) -> None:
    asked = {
        "origin": ORIGIN,
        "access-control-request-method": method,
        "access-control-request-headers": "content-type,authorization",
    }
    response = call(app, "OPTIONS", url, headers=asked)
    assert response.status_code in (204, 404)
    assert not [name for name in response.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_what_a_form_of_another_host_can_send_draws_nothing(
    app: FastAPI, router: FakeRouter, kind: str
) -> None:
    headers = {"origin": ORIGIN, "content-type": kind}
    response = call(app, "POST", URL, content=b'{"prompt": "x"}', headers=headers)
    assert_openai_error(response, 400, "invalid_value")
    assert router.asked == []


@pytest.mark.parametrize(
    "said",
    [
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": ORIGIN},
        {"origin": "null"},
    ],
)
def test_a_page_of_another_host_has_no_picture_edited(
    app: FastAPI, router: FakeRouter, said: dict[str, str]
) -> None:
    form = httpx.Request(
        "POST", "http://test", files={"image": ("x.png", picture())}, data={"prompt": "x"}
    )
    headers = {"content-type": form.headers["content-type"], "host": "x:8000", **said}
    response = call(app, "POST", "/v1/images/edits", content=form.read(), headers=headers)
    assert_openai_error(response, 403, "cross_site_request")
    assert router.asked == []


@pytest.mark.parametrize(("method", "url"), EVERYWHERE)
def test_every_answer_is_taken_for_what_it_says_and_shown_in_no_frame(
    app: FastAPI, method: str, url: str
) -> None:
    arguments = {"json": {"prompt": "x"}} if method == "POST" else {}
    headers = call(app, method, url, **arguments).headers
    assert headers.get_list("x-content-type-options") == ["nosniff"]
    assert headers.get_list("referrer-policy") == ["no-referrer"]
    (policy,) = headers.get_list("content-security-policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy


@pytest.mark.parametrize("accept", ["image/png", "text/event-stream"])
def test_so_are_pictures_streams_and_errors(app: FastAPI, router: FakeRouter, accept: str) -> None:
    body = {"prompt": "x", "stream": accept == "text/event-stream"}
    for router.fault in (None, ServingError("odd"), RuntimeError("x")):
        headers = call(app, "POST", URL, json=body, headers={"accept": accept}).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_on_the_docs_page_only_its_own_script_runs(app: FastAPI) -> None:
    response = call(app, "GET", "/docs")
    (inline,) = re.findall(r"<script>(.*?)</script>", response.text, re.DOTALL)
    assert "SwaggerUIBundle(" in inline
    assert not re.search(r"\son\w+=", response.text)  # No handlers in attributes.
    digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
    policy = dict(
        one.split(" ", 1) for one in response.headers["content-security-policy"].split("; ")
    )
    assert policy["script-src"] == f"'self' 'sha256-{digest}'"
    assert policy["connect-src"] == "'self'"
    assert not re.search("https?://", response.text)
    for source in re.findall(r'(?:src|href)="([^"]+)"', response.text):
        assert call(app, "GET", source).status_code == 200


def test_the_docs_page_finds_its_files_where_the_application_is_mounted(app: FastAPI) -> None:
    mounted = with_scope(app, {"root_path": "/sd"})
    page = call(mounted, "GET", "/sd/docs").text
    for source in (*re.findall(r'(?:src|href)="([^"]+)"', page), "/sd/openapi.json"):
        assert source.startswith("/sd/")
        assert call(mounted, "GET", source).status_code == 200
    assert "'/sd/openapi.json'" in page


def test_no_answer_sends_a_browser_to_the_host_that_a_request_names(app: FastAPI) -> None:
    for url in ("/v1/models/", "/docs/", "/static-offline-docs", "/healthz/"):
        response = call(app, "GET", url, headers={"host": "evil.example"})
        assert response.status_code == 404
        assert "location" not in response.headers
        assert "evil.example" not in response.text


def test_a_query_that_is_no_utf_8_is_no_servers_error(app: FastAPI) -> None:
    odd = with_scope(app, {"query_string": b"\xff=\xfe"})
    assert_openai_error(call(odd, "GET", "/nothing"), 404, "route_not_found")
    assert_openai_error(call(odd, "DELETE", "/v1/models"), 405, "method_not_allowed")
