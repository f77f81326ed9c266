"""The server that a client is pointed at: its address, model, context and key; and how a running one is asked for them.

Knows nothing of clients or files.
"""

import http.client
import json
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

MAX_OUTPUT = 32_768  # what agents ask for at most; the server cuts down more anyway
NO_KEY = "no-key"  # clients insist on one, a server without keys takes any
_ASKING_SECONDS = 10.0
_KEY = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class ConnectError(Exception):
    """Something the user can put right; the text says how."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What clients are told. `url` ends in neither a slash nor `/v1`; `context` is in tokens."""

    url: str
    model: str
    context: int
    api_key: str | None = None

    @property
    def openai_url(self) -> str:
        """The base URL of OpenAI's clients."""
        return f"{self.url}/v1"

    @property
    def key(self) -> str:
        """The key, or something in its place for clients that do not start without one."""
        return self.api_key or NO_KEY

    @property
    def max_output(self) -> int:
        """What a client should set aside for an answer."""
        return min(MAX_OUTPUT, self.context // 4)


def checked_url(url: str) -> str:
    """The server's address as `Endpoint` has it, from one that may end in `/v1`."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1)
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or parts.username is not None or not url.isprintable():
        raise ConnectError("--url must be like http://127.0.0.1:8000")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def checked_key(key: str | None) -> str | None:
    """The key, if it is one that means itself in every client's files and in a header. It is not repeated."""
    if not key:
        return None
    if not _KEY.fullmatch(key):
        raise ConnectError(
            "--api-key: only letters, digits and -._~+/= mean the same in all clients' files; "
            "give the server a key of these"
        )
    return key


def find_endpoint(url: str, model: str | None, context: int | None, api_key: str | None) -> Endpoint:
    """The endpoint at `url`; what is not given of `model` and `context` is asked from the server there.

    Raises:
        ConnectError: it had to be asked, and did not answer or has no such model.
    """
    if model is None or context is None:
        card = _card(_served(url, api_key), url, model)
        model = model or str(card["id"])
        context = context or _context_of(card, url)
    return Endpoint(url, model, context, api_key)


def _served(url: str, api_key: str | None) -> list[dict[str, Any]]:
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    request = urllib.request.Request(f"{url}/v1/models", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # proxies do not lead to one's own machine
    try:
        with opener.open(request, timeout=_ASKING_SECONDS) as answer:
            cards = json.load(answer)["data"]
            return [card for card in cards if isinstance(card["id"], str)]
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise ConnectError(f"{url} asks for a key: give --api-key or set DELTALOOP_API_KEY") from None
        raise _stranger(url) from None
    except (ValueError, LookupError, TypeError, http.client.HTTPException):
        raise _stranger(url) from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise ConnectError(
            f"nobody answers at {url} ({getattr(reason, 'strerror', None) or reason}): start `deltaloop serve`, "
            "name another --url, or give --model and --context"
        ) from None


def _stranger(url: str) -> ConnectError:
    return ConnectError(f"{url} does not say which model it serves: is it deltaloop? Else give --model and --context")


def _card(cards: list[dict[str, Any]], url: str, model: str | None) -> dict[str, Any]:
    if not cards:
        raise _stranger(url)
    for card in cards:
        if model in (None, card["id"]):
            return card
    raise ConnectError(f"{url} serves {', '.join(card['id'] for card in cards)}, not {model}")


def _context_of(card: dict[str, Any], url: str) -> int:
    context = card.get("max_model_len")
    if type(context) is not int or context < 1:
        raise ConnectError(f"{url} does not say how many tokens its context has: give --context")
    return context
