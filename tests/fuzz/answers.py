"""What every answer to hostile input must be: documented, in OpenAI's shape, telling nothing."""

import re
from typing import Any

import httpx
from fastapi import FastAPI

from tests.fuzz.corpus import Refused

URL = "/v1/images/generations"
# Of the language and the libraries: none of it is a client's business.
_INSIDES = re.compile(
    r"Traceback|File \"|\.py\b|site-packages|object at 0x|<class|<function|[a-z]Error\b|Exception"
    r"|pydantic|starlette|fastapi|uvicorn|\b(NoneType|dict|tuple|str|int|float|bool|bytearray)\b"
    r"|model_type|model_attributes|__\w+__"
)


def documented_statuses(app: FastAPI) -> set[int]:
    responses = app.openapi()["paths"][URL]["post"]["responses"]
    return {int(status) for status in responses}


def fault_of(response: httpx.Response, given: str = "") -> dict[str, Any]:
    """The error of a refusal, once its shape and its words are as they must be.

    `given` is what the client sent, which may be repeated to it.
    """
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"].isascii()
    assert error["message"].isprintable()
    assert len(error["message"]) < 600
    found = _INSIDES.search(error["message"])
    assert found is None or found[0] in given, error["message"]
    return error


def hold(response: httpx.Response, asked: Refused, statuses: set[int]) -> None:
    """An answer to one request of the corpus."""
    error = fault_of(response, asked.body[:200].decode("latin-1"))
    assert response.status_code in statuses
    assert (response.status_code, error["param"]) == (asked.status, asked.param), error
    if asked.status == 400 and asked.param is None:
        assert error["code"] == "malformed_body"
        assert error["message"].startswith("body: ")
