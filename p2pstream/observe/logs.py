"""Log lines: `text` for people, `json` a line a record. Lines name ids: listener, route, agent.

Extra values ride in `extra={"fields": {…}}`, are appended as `key=value` in text, and are keys of
their own in JSON.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final, TextIO

from p2pstream.config.wording import printable

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


_QUOTED: Final = frozenset(' "=')


def _fields(record: logging.LogRecord) -> dict[str, object]:
    fields = getattr(record, "fields", None)
    return fields if isinstance(fields, dict) else {}


def _when(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


class TextFormatter(logging.Formatter):
    """`2026-01-02T03:04:05.678+00:00 info  agents: agent connected agent=media`."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        name = record.name.removeprefix("p2pstream.")
        # Nor can what an agent or a server said: further lines of a message are indented.
        message = "\n    ".join(map(printable, record.getMessage().split("\n")))
        line = f"{_when(record)} {record.levelname.lower():<7} {name}: {message}"
        for key, value in _fields(record).items():
            text = str(value)
            # What a client sent may stand here: it can neither end the line nor invent a field.
            plain = text.isprintable() and not _QUOTED.intersection(text)
            line += f" {key}={text if text and plain else json.dumps(text)}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line: dict[str, object] = {
            "time": _when(record),
            "level": record.levelname.lower(),
            "logger": record.name.removeprefix("p2pstream."),
            "message": record.getMessage(),
        }
        line.update(_fields(record))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def catch_unraisable() -> None:
    """Have what Python can raise nowhere logged, for the rest of the process."""
    sys.unraisablehook = _unraisable


def _unraisable(what: sys.UnraisableHookArgs) -> None:
    log = logging.getLogger("p2pstream.python")
    if isinstance(what.exc_value, UnicodeDecodeError) and isinstance(what.object, bytes):
        # A TLS client named a host beyond ASCII: `ssl` ends its handshake before we are asked.
        log.debug("a TLS client asked for %r", what.object)
        return
    log.error("in %r: %r", what.object, what.exc_value)


def configure(level: str, log_format: str, stream: TextIO = sys.stderr) -> None:
    """Send the program's log to `stream`. Called again on reload: the last call counts."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger("p2pstream")
    root.handlers[:] = [handler]
    root.setLevel(_LEVELS[level])
    root.propagate = False
