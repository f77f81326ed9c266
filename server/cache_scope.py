"""Whose cached prompts a request may start from, and which conversation it belongs to, as far as clients tell.

A hit shows in the answer's speed and usage: across API keys it would tell one user of another's prompts.
"""

from collections.abc import Callable
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


def own_salts(request: Request, share_across_keys: bool) -> Callable[[str], bool]:
    """Whether a salt is one of those that this client's requests have."""
    tenant = _tenant(request, share_across_keys)
    return lambda salt: salt.startswith(f"{tenant}/")


def _tenant(request: Request, share_across_keys: bool) -> str:
    return "" if share_across_keys else tenant_of(request)


def cache_scope(request: Request, salt: str | None, session: str | None, share_across_keys: bool) -> CacheScope:
    """The scope of a request with a salt and a session's name in its body, if it has them."""
    tenant = _tenant(request, share_across_keys)
    named = session or next(filter(None, map(request.headers.get, _SESSION_HEADERS)), None)
    return CacheScope(f"{tenant}/{salt or ''}", None if named is None else f"{tenant}/{named}")
