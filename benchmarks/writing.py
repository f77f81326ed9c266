"""Results, written as JSON for machines."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write them, with the time, into a file whose folder need not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dated = {"when": datetime.now(UTC).isoformat(timespec="seconds"), **results}
    path.write_text(json.dumps(dated, indent=1, default=str) + "\n")
