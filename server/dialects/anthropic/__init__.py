"""The Anthropic dialect: messages, and counting their tokens."""

from server.dialect import Dialect, begins_with
from server.dialects.anthropic.errors import ErrorMessage, error_body
from server.dialects.anthropic.routes import anthropic_router

ANTHROPIC = Dialect(anthropic_router, begins_with("/v1/messages"), error_body, ErrorMessage)
