"""Events as one JSON object a line on standard error; calls among them only where they are asked for."""

import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from time import time

import orjson

LOGGER = "trimtab.runtime"


class _JsonLines(logging.Formatter):
    """Message and the fields given as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _line(record.created, record.levelname.lower(), record.name, record.getMessage(), fields)


def _line(at: float, level: str, logger: str, message: str, fields: Mapping[str, object]) -> str:
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
    line = {"time": moment, "level": level, "logger": logger, "message": message, **fields}
    return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def log_as_json() -> None:
    """Send our own events, and warnings of libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(LOGGER).setLevel(logging.INFO)


def say(event: str, **fields: object) -> None:
    """Log one event of the server's life."""
    logging.getLogger(LOGGER).info(event, extra={"fields": fields})


def say_at_once(event: str, **fields: object) -> None:
    """Log an event that happens thousands of times a second: past the logging module, which takes most of the time."""
    with suppress(OSError):
        sys.stderr.write(_line(time(), "info", LOGGER, event, fields) + "\n")


def complain(event: str, error: BaseException) -> None:
    """Log a failure that a caller saw as an internal error, with its cause."""
    logging.getLogger(LOGGER).error(event, exc_info=error)
