"""JSON logs, one object a line, to stderr and to `$VISTAFLOW_HOME/logs/<service>.jsonl`.

A line has `time`, `level`, `service`, `logger`, `message`, the fields bound to what is going on
(`kit_id`, `job_id`, `attempt`, `revision`, `request_id`) and the `extra` of the call. Secrets are
kept out: fields of messages marked `debug_redact`, values under names such as `password`, and
what looks like one in text. The file is rotated, so the logs of one service stay bounded.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import json
import logging
import logging.handlers
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

MAX_FILE_BYTES = 10_000_000
KEPT_FILES = 3
MAX_TEXT = 8_000
"""Longest text of one field of one line; a traceback keeps its end."""

REDACTED = "[redacted]"

_context: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar(
    "log", default=types.MappingProxyType({})
)

_SECRET_NAME = re.compile(
    r"(^|[_\-.])(pass(word|wd|phrase)?|secrets?|tokens?|(api|aes|aes256cbc|private|access|secret)_?"
    r"key|key|iv|credentials?|authorization|dsn)$",
    re.IGNORECASE,
)
_SECRET_TEXT = re.compile(
    r"(?i)(\b[\w\-]*(?:password|passwd|passphrase|secret|token|api_?key|cbc_?key|private_?key|"
    r"access_?key|authorization)[\"']?\s*[=:]\s*)(?:bearer\s+)?(\"[^\"]*\"|'[^']*'|[^\s,;&\"']+)"
)
_SECRET_TOKEN = re.compile(
    r"\bvf1\.[0-9a-f]{32}\.[A-Za-z0-9_-]+|\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
)
_SECRET_URL = re.compile(r"(\b[a-z][a-z0-9+.\-]*://[^\s:/@]*):[^\s/@]+@")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextlib.contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Adds `fields` to every line logged inside, in this task and those it starts."""
    token = _context.set({**_context.get(), **fields})
    try:
        yield
    finally:
        _context.reset(token)


def configure(service: str, *, home: Path | None = None, level: str = "INFO") -> None:
    """Sends the logs of this process to stderr, and to the service's file below `home`."""
    formatter = JsonFormatter(service)
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if home is not None:
        folder = home / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        handlers.append(
            logging.handlers.RotatingFileHandler(
                folder / f"{service}.jsonl",
                maxBytes=MAX_FILE_BYTES,
                backupCount=KEPT_FILES,
                encoding="utf-8",
                delay=True,
            )
        )
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        handler.setFormatter(formatter)
        root.addHandler(handler)
    root.setLevel(level.upper())
    # A full disk or a closed terminal must not print tracebacks of its own.
    logging.raiseExceptions = False


class JsonFormatter(logging.Formatter):
    """Makes one JSON object of a record."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": _clip(redact_text(_message(record))),
        }
        extra = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        for key, value in {**_context.get(), **extra}.items():
            line.setdefault(key, safe(value, name=key))
        if record.exc_info:
            line["error"] = _clip(redact_text(self.formatException(record.exc_info)))
        return json.dumps(line, ensure_ascii=False, default=str)


def safe(value: Any, *, name: str = "") -> Any:
    """The value as JSON-able data without its secrets."""
    if name and _SECRET_NAME.search(name):
        return REDACTED
    if value is None or isinstance(value, bool | int | float):
        return value
    if hasattr(value, "DESCRIPTOR") and hasattr(value, "ListFields"):
        return _safe_message(value)
    if isinstance(value, Mapping):
        return {str(key): safe(item, name=str(key)) for key, item in value.items()}
    if _is_repeated(value):
        return [safe(item) for item in value]
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    return _clip(redact_text(str(value)))


def redact_text(text: str) -> str:
    """The text without what looks like a password, token or key in it."""
    text = _SECRET_TOKEN.sub(REDACTED, text)
    return _SECRET_URL.sub(rf"\1:{REDACTED}@", _SECRET_TEXT.sub(_without_secret, text))


def _without_secret(match: re.Match[str]) -> str:
    quote = match[2][0] if match[2][0] in "\"'" else ""
    return f"{match[1]}{quote}{REDACTED}{quote}"


def _message(record: logging.LogRecord) -> str:
    """The record's message; protobuf messages among its arguments lose their secrets first."""
    if isinstance(record.args, Mapping):
        record.args = {key: _argument(argument) for key, argument in record.args.items()}
    elif record.args:
        record.args = tuple(_argument(argument) for argument in record.args)
    if hasattr(record.msg, "DESCRIPTOR"):
        return json.dumps(safe(record.msg), default=str)
    return record.getMessage()


def _argument(value: Any) -> Any:
    if hasattr(value, "DESCRIPTOR") or isinstance(value, Mapping) or _is_repeated(value):
        return json.dumps(safe(value), default=str)
    return f"<{len(value)} bytes>" if isinstance(value, bytes | bytearray) else value


def _safe_message(message: Any) -> dict[str, Any]:
    """The set fields of a protobuf message. Python's own printing ignores `debug_redact`."""
    fields: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.GetOptions().debug_redact:
            fields[field.name] = REDACTED
        elif hasattr(value, "items"):
            fields[field.name] = {
                str(key): safe(item, name=str(key)) for key, item in value.items()
            }
        elif _is_repeated(value):
            fields[field.name] = [safe(item, name=field.name) for item in value]
        else:
            fields[field.name] = safe(value, name=field.name)
    return fields


def _is_repeated(value: Any) -> bool:
    """Whether it is a list of some kind; a message's repeated field prints all that is in it."""
    return isinstance(value, Sequence | Set) and not isinstance(value, str | bytes | bytearray)


def _clip(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    return f"{text[: MAX_TEXT // 4]} … {text[-MAX_TEXT * 3 // 4 :]}"
