"""`Service`: what routes work with, gathered once for one server, and how a route gets at it.

Knows the parts, not the routes.
"""

from dataclasses import dataclass, field
from typing import cast

from starlette.requests import Request

from engine.client import EngineClient
from server.chat.history import History
from server.constraining import Constrainer
from server.generation import Generator
from server.metrics import Metrics
from server.model import ServedModel
from server.prompts import PromptEncoder
from server.settings import Settings


class WarnOnce:
    """Remembers what was warned of, up to a bound, so that a log stays readable whatever clients send."""

    def __init__(self, limit: int = 256) -> None:
        self._seen: set[str] = set()
        self._limit = limit

    def first(self, name: str) -> bool:
        """Whether `name` is new and there is room for one more warning."""
        if name in self._seen or len(self._seen) >= self._limit:
            return False
        self._seen.add(name)
        return True


@dataclass(frozen=True, slots=True)
class Service:
    """The parts of one server."""

    engine: EngineClient
    settings: Settings
    model: ServedModel
    metrics: Metrics
    prompts: PromptEncoder
    generator: Generator
    history: History
    constrainer: Constrainer
    warnings: WarnOnce = field(default_factory=WarnOnce)


def service_of(request: Request) -> Service:
    """The service of the app that got this request."""
    return cast(Service, request.app.state.service)
