"""The OpenAI dialect: chat completions, completions, models, and what other servers of this API have beside them."""

from server.dialect import Dialect
from server.dialects.openai.routes import openai_router
from server.errors import ApiError

# Its error body is the house default, for paths that nobody owns too.
OPENAI = Dialect(openai_router, owns=lambda scope: False, error_body=ApiError.body)
