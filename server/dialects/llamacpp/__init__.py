"""llama.cpp's own routes: completions of raw prompts, fill in the middle, and what its clients ask to know."""

from server.dialect import Dialect, begins_with
from server.dialects.llamacpp.errors import Failure, error_body
from server.dialects.llamacpp.routes import llamacpp_router

LLAMACPP = Dialect(llamacpp_router, begins_with("/completion", "/infill", "/props", "/slots"), error_body, Failure)
