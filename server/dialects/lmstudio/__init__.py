"""LM Studio's REST API below /api/v0, as far as editors read it: the list of models.

Conversations there are OpenAI's in every respect, and so are errors; that dialect has the routes.
"""

from server.dialect import Dialect, begins_with
from server.dialects.lmstudio.models import lmstudio_router
from server.errors import ApiError

LMSTUDIO = Dialect(lmstudio_router, begins_with("/api/v0"), ApiError.body)
