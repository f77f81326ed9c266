"""Our own OpenAPI document, held against what the server answers to whatever a generator makes of it."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from server.openapi import openapi_document
from tests.support.api import Api
from tests.support.scripted_engine import say

API = Api(say("Hello there"))
DOCUMENT: Any = openapi_document(API.app, "test")
schema = schemathesis.openapi.from_dict(DOCUMENT)
schema.app = API.app


@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_comes_the_answer_is_as_declared(case: Case) -> None:
    response = case.call()
    checks = [status_code_conformance, content_type_conformance, response_schema_conformance]
    if response.status_code not in (501, 503):
        checks.append(not_a_server_error)
    case.validate_response(response, checks=checks)
