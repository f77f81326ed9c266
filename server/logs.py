"""The log: one JSON object a line on stderr. Knows nothing of what is logged; secrets and content never come here."""

import json
import logging
import sys
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message; `extra={"fields": {...}}` adds members; an exception adds its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _is_news(record: logging.LogRecord) -> bool:
    """Cutting a broken stream is on purpose, and the request's own line tells of it."""
    return record.getMessage() != "ASGI callable returned without completing response."


def configure_logging(level: str) -> None:
    """Send this process's log to stderr. The web server's own lines appear from warnings up."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(_is_news)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    for chatty in ("asyncio", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
