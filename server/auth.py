"""Who may call: API keys, compared in constant time, as an ASGI middleware.

A key comes as `Authorization: Bearer …` or as `x-api-key`. Nothing here prints or logs a key.
"""

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from server.access import note_error
from server.dialect import error_response
from server.errors import ApiError
from server.settings import Settings

_SCOPE_KEY = "deltaloop.tenant"
OPEN_PATHS = frozenset({"/", "/health", "/ready", "/metrics"})


class ApiKeys:
    """The keys that open the API. With none of them it is open."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = {_digest(key): key for key in (key.encode("utf-8", "surrogateescape") for key in keys)}
        self._tenants: dict[bytes, str] = {}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def tenant(self, headers: Headers) -> str | None:
        """Whose key a request with these headers brings; None: it may not pass.

        Looks at every key, however early one fits.
        """
        offered = [_digest(key.encode("latin-1")) for key in _offered(headers)]  # the bytes that were sent
        matches = [ours for ours in self._keys for theirs in offered if hmac.compare_digest(ours, theirs)]
        if not matches:
            return None
        if matches[0] not in self._tenants:
            self._tenants[matches[0]] = _tenant(self._keys[matches[0]])
        return self._tenants[matches[0]]


def tenant_of(request: Request) -> str:
    """Whose request it is; empty where the API is open to everyone."""
    return str(request.scope.get(_SCOPE_KEY, ""))


def _digest(key: bytes) -> bytes:
    """Digests have one length, so a comparison tells nothing of a key's own length."""
    return hashlib.sha256(key).digest()


def _tenant(key: bytes) -> str:
    """A name for a key's owner that is always the same, and stands in files: dear to try keys against."""
    return hashlib.scrypt(key, salt=b"deltaloop tenant", n=2**12, r=8, p=1, dklen=16).hex()


def _offered(headers: Headers) -> list[str]:
    keys = [headers["x-api-key"]] if "x-api-key" in headers else []
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and credentials:
        keys.append(credentials.strip())
    return keys


def read_keys(settings: Settings) -> ApiKeys:
    """All keys of the settings, those of the key file included.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is there and holds no key, which would leave the door open.
    """
    keys = [key.get_secret_value() for key in settings.api_key]
    if settings.api_key_file is not None:
        listed = _read_key_file(settings.api_key_file)
        if not listed:
            raise ValueError(f"{settings.api_key_file} holds no key")
        keys += listed
    return ApiKeys(keys)


def _read_key_file(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text("utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


class RequireKey:
    """ASGI middleware that lets a request through when it brings a key, or asks for an open path."""

    def __init__(self, app: ASGIApp, keys: ApiKeys, open_paths: frozenset[str]) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 or pass the request on."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            tenant = self._keys.tenant(Headers(scope=scope))
            if tenant is None:
                await _refuse(scope, receive, send)
                return
            scope[_SCOPE_KEY] = tenant
        await self._app(scope, receive, send)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    error = ApiError(
        "This server needs an API key: send it as 'Authorization: Bearer <key>' or in 'x-api-key'.",
        status=401,
        type="authentication_error",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )
    note_error(Request(scope), error)
    await error_response(scope, error)(scope, receive, send)
