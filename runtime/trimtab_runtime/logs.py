"""Events as one JSON object a line on standard error; there is no access log."""

import json
import logging
import sys
from datetime import UTC, datetime

LOGGER = "trimtab.runtime"


class _JsonLines(logging.Formatter):
    """Message and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json() -> None:
    """Send our own events, and warnings of libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(LOGGER).setLevel(logging.INFO)


def say(event: str, **fields: object) -> None:
    """Log one event of the server's life."""
    logging.getLogger(LOGGER).info(event, extra={"fields": fields})


def complain(event: str, error: BaseException) -> None:
    """Log a failure that a caller saw as an internal error, with its cause."""
    logging.getLogger(LOGGER).error(event, exc_info=error)
