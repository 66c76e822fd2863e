"""Progress as one JSON object a line on stderr, for people and log collectors; stdout stays unused."""

import json
import logging
import sys
from datetime import UTC, datetime

LOGGER = "trimtab.optimizer"
_TALKATIVE = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")


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
    """Send our own progress, and warnings of libraries, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(LOGGER).setLevel(logging.INFO)
    logging.captureWarnings(True)


def quiet_libraries() -> None:
    """Undo what torch did to logging when it was imported: handlers and a format of its own, and much to say."""
    torch = logging.getLogger("torch")
    torch.handlers.clear()
    torch.propagate = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


def say(event: str, **fields: object) -> None:
    """Log one step of progress."""
    logging.getLogger(LOGGER).info(event, extra={"fields": fields})
