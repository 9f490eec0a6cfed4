"""The OpenAPI document against the routes: what it allows is answered as it says.

Requests that fit it and requests that don't, 1,000 in all; with hypothesis's profile `long` 10,000.
"""

import tempfile
from pathlib import Path

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve.catalogue import MINIATURE
from serve.http.api import build_api
from serve.http.options import HttpOptions
from serve.keys import KeyFile, new_key
from tests.unit.http.test_api import FakeRouter

KEY, LINE = new_key("alice", "original")
# 100, or as the profile has it. Routes without parameters have a handful of requests each.
CASES = settings().max_examples
# `make fuzz` looks longer where no keys are needed: 8,000 of the 10,000.
OPEN_CASES = 8 * CASES if CASES > 100 else CASES
# What keys change is little.
GUARDED_CASES = CASES if CASES > 100 else CASES // 4
UNHURRIED = settings(
    deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def guarded() -> FastAPI:
    """The routes where a key is needed."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(LINE)
        file.flush()
        keys = KeyFile(Path(file.name), MINIATURE.variants)
    return build_api(FakeRouter(), HttpOptions(a1111=True), keys)


app = build_api(FakeRouter(), HttpOptions(a1111=True))
schema = schemathesis.openapi.from_asgi("/openapi.json", app)
guarded_schema = schemathesis.openapi.from_asgi("/openapi.json", guarded())
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@schema.parametrize()
@settings(max_examples=OPEN_CASES, parent=UNHURRIED)
def test_every_answer_is_documented_and_none_is_a_servers_error(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)


@guarded_schema.parametrize()
@settings(max_examples=GUARDED_CASES, parent=UNHURRIED)
def test_so_it_is_where_keys_are_needed(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)
    case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {KEY}"})
