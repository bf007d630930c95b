"""What a deck's simulator runs: templates with placeholders, a Python entry, a named function."""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vistaflow_services.core.expressions import suggest
from vistaflow_services.decks.archives import path_problem
from vistaflow_services.decks.definition import DECK_FILE, PLACEHOLDER, Response
from vistaflow_services.decks.fields import Fields
from vistaflow_services.decks.parameter import NAME, Parameter

_SOURCES: Final = {"devsim": "entry", "ngspice": "template", "function": "function"}
"""The key that tells each simulator what to run."""

_PARSING = threading.Lock()
"""Held while Python is parsed: in two threads at once CPython 3.11 may miscount how deep it is
(a SystemError), and each would put back the other's filter of warnings."""

_SAFE_CHOICE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Place:
    """Where a named thing of the deck is in the document."""

    path: str
    name: str


class Sources:
    """Reads what a deck runs, and holds it against what the deck declares."""

    def __init__(self, fields: Fields, files: Mapping[str, bytes]) -> None:
        self._fields = fields
        self._files = files

    def read(self, told: dict[str, Any], simulator: str) -> dict[str, Any]:
        """What the simulator runs: exactly the key that is its own."""
        sources: dict[str, Any] = {"templates": (), "entry": "", "function": ""}
        own = _SOURCES.get(simulator)
        for key in _SOURCES.values():
            if own and key in told and key != own:
                self._fields.add(key, f"is not used by the simulator {simulator}; it has `{own}`")
        if own and own not in told:
            self._fields.add(own, f"missing; the simulator {simulator} needs it")
        elif own == "template":
            sources["templates"] = self._templates(told["template"])
        elif own == "entry":
            sources["entry"] = self._entry(told)
        elif own == "function":
            sources["function"] = self._fields.text(told, "", "function")
            if not NAME.fullmatch(sources["function"]):
                self._fields.add("function", f"`{sources['function']}` is no name of a function")
        return sources

    def _templates(self, told: Any) -> tuple[str, ...]:
        paths = told if isinstance(told, list) else [told]
        templates: list[str] = []
        if not paths:
            self._fields.add("template", "is empty; name the netlist")
        for at, path in enumerate(paths):
            field = f"template[{at}]" if isinstance(told, list) else "template"
            if not isinstance(path, str):
                self._fields.add(field, "is no file name")
            elif self._file(path, field):
                if path in templates:
                    self._fields.add(field, f"`{path}` is named twice")
                templates.append(path)
        return tuple(templates)

    def _entry(self, told: dict[str, Any]) -> str:
        entry = self._fields.text(told, "", "entry")
        path, colon, function = entry.partition(":")
        if not colon or not path.endswith(".py") or not function.isidentifier():
            self._fields.add("entry", f"`{entry}` is not such as `deck.py:evaluate`")
        elif self._file(path, "entry"):
            self._function(path, function)
        return entry

    def _function(self, path: str, function: str) -> None:
        """Looks for the entry without running anything of it."""
        try:
            with _PARSING, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(self._files[path])
        except SyntaxError as error:
            self._fields.found.add(f"{path}:{error.lineno or 1}", f"is not Python: {error.msg}")
            return
        except (ValueError, RecursionError, MemoryError):
            self._fields.found.add(path, "is not Python that can be read")
            return
        bound: dict[str, ast.stmt] = {}
        for each in tree.body:
            for name in _bound_names(each):
                bound[name] = each
        if function not in bound:
            self._fields.add(
                "entry", f"{path} has no function `{function}`{suggest(function, bound)}"
            )
            return
        found = bound[function]
        if isinstance(found, ast.AsyncFunctionDef | ast.ClassDef):
            self._fields.found.add(
                f"{path}:{found.lineno}", f"`{function}` must be a plain function"
            )
        elif isinstance(found, ast.FunctionDef) and not _takes_one(found.args):
            self._fields.found.add(
                f"{path}:{found.lineno}",
                f"`{function}` must take one argument, the dict of parameters",
            )

    def check_netlists(
        self,
        templates: tuple[str, ...],
        parameters: list[Parameter],
        responses: list[Response],
        named: list[Place],
    ) -> None:
        """Placeholders against parameters, measures against responses, and what may be run."""
        names = [each.name for each in named]
        used: set[str] = set()
        words: set[str] = set()
        for path, content in self._files.items():
            if path == DECK_FILE:
                continue
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = content[: error.start].count(b"\n") + 1
                self._fields.found.add(f"{path}:{line}", "is not UTF-8; save the file as UTF-8")
                # Enough of it is read to find what else is wrong.
                text = content.decode(errors="replace")
            words.update(re.findall(r"[a-z_][a-z0-9_.]*", text.lower()))
            if path in templates:
                used |= self._placeholders(path, content, names)
        if not templates:
            return
        for each in named:
            if each.name not in used:
                where = ", ".join(templates)
                self._fields.add(
                    f"{each.path}.name",
                    f"no placeholder `@{each.name}@` in {where}; use the parameter or remove it",
                )
        for at, response in enumerate(responses):
            if response.extract.lower() not in words:
                self._fields.add(
                    f"responses[{at}].{'measure' if response.measure else 'name'}",
                    f"no `.meas` or `print` of `{response.extract}` in the deck's files",
                )
        for parameter in parameters:
            for choice in parameter.choices:
                if isinstance(choice, str) and not _SAFE_CHOICE.fullmatch(choice):
                    place = next(each for each in named if each.name == parameter.name)
                    self._fields.add(
                        f"{place.path}.choices",
                        f"`{choice}` is put into a netlist; use letters, digits and _ . + - only",
                    )

    def _placeholders(self, path: str, content: bytes, names: list[str]) -> set[str]:
        used: set[str] = set()
        for match in PLACEHOLDER.finditer(content):
            name = match.group(1).decode()
            if name not in names and name not in used:
                line = content[: match.start()].count(b"\n") + 1
                self._fields.found.add(
                    f"{path}:{line}", f"no parameter for `@{name}@`{suggest(name, names)}"
                )
            used.add(name)
        return used

    def _file(self, path: str, field: str) -> bool:
        problem = path_problem(path)
        if not problem and path not in self._files:
            problem = f"is no file of the deck{suggest(path, self._files)}"
        if problem:
            self._fields.add(field, f"`{path[:200]}` {problem}")
        return not problem


def _bound_names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.ImportFrom):
        return [each.asname or each.name for each in statement.names]
    if isinstance(statement, ast.Assign):
        return [each.id for each in statement.targets if isinstance(each, ast.Name)]
    return []


def _takes_one(arguments: ast.arguments) -> bool:
    """Whether a function can be called with one positional argument."""
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    needed = [each for each in arguments.kw_defaults if each is None]
    return required <= 1 and (positional >= 1 or arguments.vararg is not None) and not needed
