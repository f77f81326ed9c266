"""OpenAI's Responses API: items in, items out, and responses kept for a while to go on from."""

from server.dialect import Dialect, begins_with
from server.dialects.responses.routes import responses_router
from server.errors import ApiError

RESPONSES = Dialect(responses_router, begins_with("/v1/responses", "/responses"), ApiError.body)
