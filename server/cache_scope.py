"""Whose cached prompts a request may start from, and which conversation it belongs to, as far as clients tell.

A hit shows in the answer's speed and usage: across API keys it would tell one user of another's prompts.
"""

from dataclasses import dataclass

from starlette.requests import Request

from server.auth import tenant_of

_SESSION_HEADERS = (
    "x-claude-code-session-id",
    "x-session-id",
    "x-session-affinity",
    "session-id",
    "x-litellm-session-id",
)


@dataclass(frozen=True, slots=True)
class CacheScope:
    """`salt`: prompts of another one share nothing with this. `session`: the client's name for the conversation."""

    salt: str
    session: str | None


def cache_scope(request: Request, salt: str | None, session: str | None, share_across_keys: bool) -> CacheScope:
    """The scope of a request with a salt and a session's name in its body, if it has them."""
    tenant = "" if share_across_keys else tenant_of(request)
    named = session or next(filter(None, map(request.headers.get, _SESSION_HEADERS)), None)
    return CacheScope(f"{tenant}/{salt or ''}", None if named is None else f"{tenant}/{named}")
