"""Reading streams of named events."""

import json
from typing import Any


def events_of(text: str) -> list[dict[str, Any]]:
    """The JSON of every event. Each has a name, and it is the one that its data says."""
    events = []
    for chunk in text.strip().split("\n\n"):
        if chunk.startswith(":"):
            continue
        name, data = chunk.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events
