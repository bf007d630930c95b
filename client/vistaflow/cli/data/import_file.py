"""What is imported, from a YAML file whose mistakes are reported with their line."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from vistaflow._machine.encoding import read_text
from vistaflow.errors import FieldViolation, InvalidArgumentError

MAX_DEPTH: Final = 16
"""Deepest nesting of lists and mappings."""

KEYS: Final = (
    *("dataset", "source", "primary_key", "dedupe", "rules", "types"),
    *("tables", "alias", "profile"),
)


class ImportFile:
    """A file with the arguments of `import_dataset`, or of another call.

    Files of this machine are named relative to its folder.

    Args:
        path: The file.
        keys: The keys that it may have; those of an import unless others are given.

    Raises:
        InvalidArgumentError: It cannot be read, is no YAML, or has an unknown key.
    """

    def __init__(self, path: Path, keys: Sequence[str] = KEYS) -> None:
        self._path = path
        self._lines: dict[str, int] = {}
        self._seen: set[int] = set()
        text = read_text(path)
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line = mark.line + 1 if mark else None
            raise self._error("", f"is no YAML: {error.problem}", line) from None
        except (yaml.YAMLError, RecursionError):
            raise self._error("", "is no YAML") from None
        content = self._value(root, "", 0)
        if not isinstance(content, dict):
            raise self._error("", f"has no keys; keys are {', '.join(keys)}")
        for key in content:
            if key not in keys:
                raise self._error(key, f"is no key here; keys are {', '.join(keys)}")
        tables = content.get("tables")
        for table in [content, *(tables if isinstance(tables, list) else ())]:
            if isinstance(table, dict) and "source" in table:
                table["source"] = self._beside(table["source"])
        self.arguments: dict[str, Any] = content

    def located(self, error: InvalidArgumentError) -> InvalidArgumentError:
        """The same error, each mistake with its line in this file."""
        violations = tuple(
            FieldViolation(field=self._place(entry.field), description=entry.description)
            for entry in error.violations
        )
        return InvalidArgumentError(error.message, violations=violations)

    def _place(self, field: str) -> str:
        """Where a field was written, such as `import.yaml:12 tables[0].rules[1]`."""
        field = place = field.removeprefix("spec.")
        if field.startswith("tables[0].") and "tables" not in self._lines:
            field = place = field.removeprefix("tables[0].")
        while place and place not in self._lines:
            place = re.sub(r"(\.?[^.\[\]]+|\[\d+\])$", "", place)
        line = f":{self._lines[place]}" if place else ""
        return f"{self._path}{line} {field}".rstrip()

    def _error(self, field: str, problem: str, line: int | None = None) -> InvalidArgumentError:
        place = f"{self._path}:{line}" if line else self._place(field)
        violation = FieldViolation(field=place, description=problem)
        return InvalidArgumentError(f"{place}: {problem}", violations=(violation,))

    def _value(self, node: Any, path: str, depth: int) -> Any:
        if node is None:
            return None
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        # A few aliases of aliases are enough to fill the memory.
        if depth > MAX_DEPTH or id(node) in self._seen:
            raise self._error(path, "is nested too deep, or an alias; write values out", line)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        self._seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            return [
                self._value(item, f"{path}[{index}]", depth + 1)
                for index, item in enumerate(node.value)
            ]
        mapping: dict[str, Any] = {}
        for index, (key, value) in enumerate(node.value):
            inner = f"{path}.{key.value}" if path else str(key.value)
            if not isinstance(key, yaml.ScalarNode) or key.value in mapping:
                raise self._error(inner, "is no text, or there twice", key.start_mark.line + 1)
            # Rules may be a list or have their names as keys; the service numbers them.
            self._lines[inner] = self._lines[f"{path}[{index}]"] = key.start_mark.line + 1
            mapping[key.value] = self._value(value, inner, depth + 1)
        return mapping

    def _beside(self, source: Any) -> Any:
        """A source with the paths of files beside this one."""
        if isinstance(source, list):
            return [self._beside(entry) for entry in source]
        if isinstance(source, dict):
            return (
                {**source, "files": self._beside(source["files"])} if "files" in source else source
            )
        file = self._path.parent / source if isinstance(source, str) else None
        return file if file is not None and file.is_file() else source


def _scalar(node: yaml.ScalarNode) -> Any:
    """A value without the traps of YAML 1.1: `on`, `12:30` and dates are text."""
    text: str = node.value
    if node.style is not None:
        return text
    try:
        return json.loads(text) if text not in ("", "~") else None
    except ValueError:
        return text
