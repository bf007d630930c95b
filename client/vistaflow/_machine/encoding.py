"""Text input and output where encodings other than UTF-8 occur.

Files have to be UTF-8, with or without a byte order mark; others are refused with the line number.
Output uses the encoding of the terminal or pipe; characters that it lacks are replaced by similar
ones.
"""

from __future__ import annotations

import codecs
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vistaflow.errors import InvalidArgumentError

ERRORS: Final = "vistaflow.resembling"
"""The name of the error handler that replaces characters."""

_RESEMBLING: Final = {
    "·": ".", "○": "o", "▶": ">", "✔": "v", "✘": "x", "■": "#", "→": "->", "—": "-", "\u2013": "-",
    "±": "+/-", "\u00d7": "x", "≤": "<=", "≥": ">=", "\u2018": "'", "\u2019": "'", "“": '"',
    "”": '"', "„": '"', "ß": "ss", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L",
    "µ": "u", "μ": "u", "Ω": "Ohm", "°": "deg",
    "▁": "_", "▂": ".", "▃": "-", "▄": "~", "▅": "=", "▆": "+", "▇": "*", "█": "#",
}  # fmt: skip


def degrade_output() -> None:
    """Makes stdout and stderr replace characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors=ERRORS)


def encodable(text: str) -> bool:
    """Whether the encoding of stdout has every character of a text."""
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
    # The command imports this module before it knows whether it needs the client.
    from vistaflow.errors import FieldViolation, InvalidArgumentError

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
