"""Text in and out where not everything is UTF-8.

Files are read by one rule: they are UTF-8, with or without a byte order mark, or refused with the
line. Output goes to whatever encoding the terminal or pipe has; what that lacks is replaced by
what looks like it.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from pathlib import Path
from typing import Final

from vistaflow.errors import FieldViolation, InvalidArgumentError

ERRORS: Final = "vistaflow.resembling"
"""The name of the error handler that replaces characters."""

_RESEMBLING: Final = {
    "·": ".", "○": "o", "▶": ">", "✔": "v", "✘": "x", "■": "#", "→": "->", "—": "-", "\u2013": "-",
    "±": "+/-", "\u00d7": "x", "≤": "<=", "≥": ">=", "\u2018": "'", "\u2019": "'", "“": '"',
    "”": '"', "„": '"', "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
    "µ": "u", "μ": "u", "Ω": "Ohm", "°": "deg",
}  # fmt: skip


def degrade_output() -> None:
    """Has stdout and stderr replace what their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def encodable(text: str) -> bool:
    """Whether stdout can say all of a text."""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def read_text(path: Path) -> str:
    """The text of a file that a user wrote.

    Raises:
        InvalidArgumentError: It cannot be read, or is not UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _wrong(str(path), error.strerror or "cannot be read") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _wrong(f"{path}:{line}", "is not UTF-8; save the file as UTF-8") from None


def _wrong(field: str, problem: str) -> InvalidArgumentError:
    violation = FieldViolation(field=field, description=problem)
    return InvalidArgumentError(f"{field}: {problem}", violations=(violation,))


def _replace(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(_resembling(character) for character in text), error.end


def _resembling(character: str) -> str:
    if character in _RESEMBLING:
        return _RESEMBLING[character]
    plain = unicodedata.normalize("NFKD", character).encode("ascii", "ignore").decode()
    return plain or "?"


codecs.register_error(ERRORS, _replace)
