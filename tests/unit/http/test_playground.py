"""The page's files: what they are served with, and what they may reach."""

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from serve.config import AppArgs
from serve.http import playground
from serve.http.api import build_api
from serve.http.options import HttpOptions
from serve.http.schemas import GenerationRequest
from tests import asgi
from tests.unit.http.test_api import FakeRouter

FOLDER = Path(playground.__file__).parent
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js"))
URLS = ["/", *(f"/playground/{path.name}" for path in FILES if path.name != "index.html")]


def call(method: str, url: str, served: bool = True, **arguments: Any) -> httpx.Response:
    app = build_api(FakeRouter(), HttpOptions(playground=served))
    return asgi.call(app, method, url, **arguments)


@pytest.mark.parametrize("url", URLS)
def test_every_file_has_the_policy_and_its_type(url: str) -> None:
    response = call("GET", url)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert set(policy.split("; ")) == {
        "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self' data: blob:",
        "connect-src 'self'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
    }  # fmt: skip
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    kinds = {"/": "text/html", "css": "text/css", "js": "text/javascript"}
    assert response.headers["content-type"].startswith(kinds[url.rpartition(".")[2]])


def test_a_browser_that_has_a_file_is_told_so() -> None:
    first = call("GET", "/")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}'):
        again = call("GET", "/", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    assert call("GET", "/", headers={"if-none-match": '"other"'}).status_code == 200
    assert len({call("GET", url).headers["etag"] for url in URLS}) == len(URLS)


@pytest.mark.parametrize(
    "url", ["/playground/__init__.py", "/playground/", "/playground/../api.py"]
)
def test_nothing_else_in_the_folder_is_served(url: str) -> None:
    assert call("GET", url).status_code == 404


def test_the_setting_switches_the_page_off() -> None:
    assert AppArgs().playground
    for url in URLS:
        assert call("GET", url, served=False).status_code == 404
    assert call("GET", "/v1/models", served=False).status_code == 200


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_files_name_no_other_host(path: Path) -> None:
    # The namespace of the icon is a name, which nothing asks for.
    text = path.read_text().replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|[\"'(=]//", text)


def test_the_page_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) < 56 * 1024


def test_without_scripts_the_page_points_to_the_docs() -> None:
    page = call("GET", "/").text
    (words,) = re.findall(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    assert "This page needs JavaScript" in words
    assert 'href="docs"' in words
    assert '<form id="settings" hidden>' in page


def test_models_tell_the_bounds_that_requests_are_held_to() -> None:
    (model, *_) = call("GET", "/v1/models").json()["data"]
    told = model["bounds"]
    assert told["seed"] == [0, 2**32 - 1]
    assert told["prompt"] == [1, 4000]
    assert model["size_step_px"] == 8
    assert set(told) <= set(GenerationRequest.model_fields)
    for name in ("seed", "n", "num_inference_steps", "guidance_scale"):
        low, high = told[name]
        for value, fits in ((low, True), (high, True), (low - 1, False), (high + 1, False)):
            reply = call("POST", "/v1/images/generations", json={"prompt": "x", name: value}).json()
            # Many steps may be too much work, which is another bound.
            message = reply.get("error", {"message": ""})["message"]
            assert ("it must be" in message) is not fits, (name, value)
