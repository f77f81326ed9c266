"""The engine's exceptions, one small tree.

    EngineError
    ├── RequestError          the request cannot be served as it stands (a 4xx)
    ├── Overloaded            it could be served, later (a 503 with Retry-After)
    ├── LoadError             the model, or the settings for it, cannot be loaded
    ├── ExecutorError         a step failed on the device
    └── InvariantViolation    our own bookkeeping is wrong; the engine stops

Standard library only: both sides of the boundary import these.
"""


class EngineError(Exception):
    """Base of everything the engine raises on purpose."""


class RequestError(EngineError):
    """A request that cannot be served.

    `param` names the offending parameter as the engine knows it; the server maps it to the dialect's name.
    """

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class ContextOverflow(RequestError):
    """The prompt leaves no room for even one token: both counts are tokens."""

    def __init__(self, num_prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(
            f"the prompt has {num_prompt_tokens} tokens and the context holds {max_model_len}, the answer included",
            param="prompt",
        )
        self.num_prompt_tokens = num_prompt_tokens
        self.max_model_len = max_model_len


class Overloaded(EngineError):
    """The waiting line is full, or the engine is draining. `retry_after_seconds` estimates the real wait."""

    def __init__(self, message: str, reason: str, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class LoadError(EngineError):
    """The model cannot be loaded: one line that says what was found, what is needed and what to do."""


class ExecutorError(EngineError):
    """A step, or one sequence of it, failed on the device."""


class InvariantViolation(EngineError):
    """A bug of ours in the bookkeeping. Never a user's fault; the engine reports itself unhealthy."""
