"""What clients change from request to request although they say the same: it would make each prompt another one.

For conversations of every dialect, before they are rendered.
"""

import json
import re
import threading
from collections import OrderedDict
from dataclasses import replace
from hashlib import blake2b

from server.chat.conversation import Conversation, Message, Tool

DEFAULT_MAX_BYTES = 16 << 20
_BILLING = re.compile(r"x-anthropic-billing-header:(?: *[a-z_]+=[^;\s]*;)+\s*")


def without_billing(conversation: Conversation) -> Conversation:
    """Claude Code begins its system prompt with a line for its maker's accounts, other digits in each conversation."""
    messages = tuple(filter(None, map(_without_billing, conversation.messages)))
    return replace(conversation, messages=messages)


def _without_billing(message: Message) -> Message | None:
    found = _BILLING.match(message.content) if message.role == "system" else None
    if found is None:
        return message
    rest = message.content[found.end() :]
    return replace(message, content=rest) if rest else None


class ToolSpellings:
    """Tools as they were first written. Who sends the same ones with keys in another order means the same ones.

    Least recently used out first. Safe to use from several threads.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._known: OrderedDict[bytes, tuple[tuple[Tool, ...], int]] = OrderedDict()
        self._lock = threading.Lock()

    def first(self, salt: str, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """These tools, as they were written the first time under this salt."""
        if not tools:
            return tools
        text = json.dumps([salt, [tool.spec for tool in tools]], sort_keys=True)
        key = blake2b(text.encode(), digest_size=16).digest()
        with self._lock:
            if key not in self._known:
                self._known[key] = tools, len(text)
                self._num_bytes += len(text)
            self._known.move_to_end(key)
            first = self._known[key][0]
            while self._num_bytes > self._max_bytes:
                self._num_bytes -= self._known.popitem(last=False)[1][1]
        return first
