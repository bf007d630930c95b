"""YAML read with line numbers and without its traps.

Only what JSON knows: mappings with text keys, lists, text, numbers, true, false, null. Read as
YAML 1.2 reads it, so `1e-9` is a number, and `on`, `no`, `12:30` and dates are text. Aliases,
tags and repeated keys are refused: the first blow small files up, the second call code, the third
silently lose a value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

from vistaflow_services.core.errors import FieldViolation, InvalidError

MAX_BYTES: Final = 128 * 1024
"""Largest document that is read."""

MAX_DEPTH: Final = 16
"""Deepest nesting of lists and mappings."""

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Final[dict[str, Any]] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    ".inf": float("inf"), "+.inf": float("inf"), "-.inf": float("-inf"),
    ".Inf": float("inf"), ".nan": float("nan"), ".NaN": float("nan"), "nan": float("nan"),
    "inf": float("inf"), "-inf": float("-inf"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Document:
    """A parsed document and where each value of it was written."""

    file: str
    root: Any
    lines: dict[str, int]
    """The line, from 1, of each path such as `parameters[2].range`."""
    texts: dict[str, str]
    """Each scalar as it was written: a version `1.10` is no number."""

    def field(self, path: str) -> str:
        """A violation's field: `deck.yaml:12 parameters[2].range`.

        A path that is not in the document gets the line of the nearest one around it.
        """
        place = path
        while place and place not in self.lines:
            place = re.sub(r"(\.?[^.\[\]]+|\[\d+\])$", "", place)
        return f"{self.file}:{self.lines[place]} {path}" if place else f"{self.file}: {path}"


def read_document(content: bytes, file: str) -> Document:
    """Parses a YAML document.

    Args:
        content: UTF-8.
        file: Its name, for the fields of violations.

    Raises:
        InvalidError: What is wrong, with the line.
    """
    if len(content) > MAX_BYTES:
        raise _wrong(file, f"has {len(content)} bytes, at most {MAX_BYTES} are read")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise _wrong(f"{file}:{line}", "is not UTF-8; save the file as UTF-8") from None
    builder = _Builder(file)
    try:
        root = builder.document(yaml.parse(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{file}:{mark.line + 1}" if mark else file
        description = " ".join(part for part in (error.context, error.problem) if part)
        raise _wrong(where, f"is not YAML: {description}") from None
    except yaml.YAMLError as error:
        # Characters that YAML does not allow; the error's text holds them, so it is not repeated.
        position = getattr(error, "position", None)
        line = text[:position].count("\n") + 1 if position is not None else 1
        raise _wrong(f"{file}:{line}", "has a character that YAML does not allow") from None
    return Document(file=file, root=root, lines=builder.lines, texts=builder.texts)


def _wrong(field: str, problem: str) -> InvalidError:
    violation = FieldViolation(field=field, description=problem)
    return InvalidError(f"{field}: {problem}", violations=[violation])


class _Builder:
    """Builds values from YAML's events, noting where each began."""

    def __init__(self, file: str) -> None:
        self.lines: dict[str, int] = {}
        self.texts: dict[str, str] = {}
        self._file = file

    def document(self, events: Iterator[Any]) -> Any:
        root: Any = None
        begun = False
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if begun:
                    raise self._refuse(event, "holds several documents; keep one, without `---`")
                begun = True
            elif isinstance(event, yaml.NodeEvent):
                root = self._value(event, events, "", 0)
        return root

    def _value(self, event: Any, events: Iterator[Any], path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise self._refuse(event, f"is nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.AliasEvent):
            raise self._refuse(event, "has an alias (`*`); write the value out")
        if event.anchor is not None:
            raise self._refuse(event, "has an anchor (`&`); write values out where they are needed")
        if event.tag is not None:
            raise self._refuse(event, f"has a tag (`{event.tag[:40]}`); write plain values")
        self.lines[path] = _line(event)
        if isinstance(event, yaml.ScalarEvent):
            self.texts[path] = event.value
            return _scalar(event.value) if event.implicit[0] else event.value
        if isinstance(event, yaml.SequenceStartEvent):
            items: list[Any] = []
            for item in events:
                if isinstance(item, yaml.SequenceEndEvent):
                    break
                items.append(self._value(item, events, f"{path}[{len(items)}]", depth + 1))
            return items
        return self._mapping(events, path, depth)

    def _mapping(self, events: Iterator[Any], path: str, depth: int) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for event in events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if not isinstance(event, yaml.ScalarEvent):
                raise self._refuse(event, "has a key that is no text")
            key = event.value
            inner = f"{path}.{key}" if path else key
            if key in mapping:
                line = self.lines[inner]
                raise self._refuse(event, f"has `{inner}` twice; the first is in line {line}")
            mapping[key] = self._value(next(events), events, inner, depth + 1)
            self.lines[inner] = _line(event)
        return mapping

    def _refuse(self, event: Any, problem: str) -> InvalidError:
        return _wrong(f"{self._file}:{_line(event)}", problem)


def _line(event: Any) -> int:
    line: int = event.start_mark.line
    return line + 1


def _scalar(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= 40 and _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= 40 and _FLOAT.fullmatch(text):
        return float(text)
    return text
