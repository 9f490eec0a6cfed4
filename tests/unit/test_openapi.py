"""The OpenAPI document against the routes: what it allows is answered as it says."""

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve.api import build_api
from tests.unit.test_api import FakeRouter

app = build_api(FakeRouter(), max_image_steps=400, min_ready_replicas=1)
schema = schemathesis.openapi.from_asgi("/openapi.json", app)
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@schema.parametrize()
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
def test_every_answer_is_documented_and_none_is_a_servers_error(case: schemathesis.Case) -> None:
    case.call_and_validate(checks=CHECKS)
