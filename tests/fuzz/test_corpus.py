"""The corpus over a fake router: each request is answered as it says, and nothing is drawn."""

from collections import Counter
from collections.abc import Mapping

import httpx
import pytest
from fastapi import FastAPI

from serve.http.api import build_api
from serve.http.options import HttpOptions
from tests.asgi import call
from tests.fuzz.answers import URL, documented_statuses, hold
from tests.fuzz.corpus import DRAWN, JSON, REFUSED, Refused
from tests.unit.http.test_api import FakeRouter


@pytest.fixture(scope="module")
def router() -> FakeRouter:
    return FakeRouter()


@pytest.fixture(scope="module")
def app(router: FakeRouter) -> FastAPI:
    return build_api(router, HttpOptions())


def post(app: FastAPI, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return call(app, "POST", URL, content=body, headers=raw)


@pytest.mark.parametrize("asked", REFUSED, ids=lambda one: ascii(one.name)[1:-1])
def test_it_is_refused_in_words_that_name_the_field_and_nothing_is_drawn(
    asked: Refused, app: FastAPI, router: FakeRouter
) -> None:
    router.asked.clear()
    hold(post(app, asked.body, asked.headers), asked, documented_statuses(app))
    assert router.asked == []


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_odd_but_allowed_is_drawn(name: str, app: FastAPI, router: FakeRouter) -> None:
    router.asked.clear()
    response = post(app, DRAWN[name], JSON)
    assert response.status_code == 200, response.text
    assert len(router.asked) == 1


def test_no_two_requests_have_one_name() -> None:
    assert [one for one, count in Counter(one.name for one in REFUSED).items() if count > 1] == []
