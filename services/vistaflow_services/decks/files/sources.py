"""What a deck's simulator runs, held against what the deck declares.

Templates with placeholders, Python functions, a named function, a command, a table.
"""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vistaflow_services.decks.archives import path_problem
from vistaflow_services.decks.definition import (
    DECK_FILE,
    OUTPUT,
    PLACEHOLDER,
    Command,
    Lookup,
    Response,
    Table,
)
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.files.fields import Fields
from vistaflow_services.decks.files.forms import (
    COMMAND,
    DECK,
    OTHER_SOURCES,
    SOURCE_KEYS,
    SOURCES,
    TABLE,
    Form,
    TextsForm,
)
from vistaflow_services.decks.parameter import LOWER_NAME, NAME, Parameter

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

    def read(self, root: dict[str, Any], simulator: str) -> dict[str, Any]:
        """What the simulator runs: exactly the keys that are its own."""
        sources: dict[str, Any] = {"templates": (), "entry": "", "function": ""}
        own = SOURCES.get(simulator)
        if own is None:
            return sources
        others = OTHER_SOURCES.get(simulator, ())
        for key in SOURCE_KEYS:
            if key in root and key not in (own, *others):
                self._fields.add(key, f"is not used by the simulator {simulator}; it has `{own}`")
        if own not in root and not (own == "template" and "testbenches" in root):
            self._fields.add(own, f"missing; the simulator {simulator} needs it")
        used = {key for key in (own, *others) if key in root}
        if "template" in used:
            sources["templates"] = self._paths(root["template"], "template")
        if "testbenches" in used:
            sources["testbenches"] = self._paths(root["testbenches"], "testbenches")
            templates = (*sources["testbenches"], *sources["templates"])
            sources["templates"] = tuple(dict.fromkeys(templates))
        for key in ("entry", "extract"):
            if key in used:
                sources[key] = self._entry(root, key)
        if "function" in used:
            sources["function"] = self._fields.text(root, "", "function", DECK.keys["function"])
            if not LOWER_NAME.fullmatch(sources["function"]):
                self._fields.add("function", f"`{sources['function']}` is no name of a function")
        if "server" in used:
            sources["server"] = self._registered(root, "", "server", DECK.keys["server"])
        if "command" in used:
            sources["command"] = self._command(root["command"])
        if "table" in used:
            sources["table"] = self._table(root["table"])
        return sources

    def _registered(self, mapping: dict[str, Any], path: str, key: str, form: Form) -> str:
        name = self._fields.text(mapping, path, key, form)
        if not NAME.fullmatch(name):
            field = f"{path}.{key}" if path else key
            self._fields.add(
                field, f"`{name}` is not the name of a registered {key}: letters, digits and _"
            )
        return name

    def _command(self, value: Any) -> Command:
        command = self._fields.mapping(value, "command", form=COMMAND, required=True)
        texts = {
            key: self._fields.text(command, "command", key, COMMAND.keys[key])
            for key in ("results", "license", "no_convergence")
        }
        for key in ("license", "no_convergence"):
            problem = pattern_problem(texts[key]) if texts[key] else ""
            if problem:
                self._fields.add(f"command.{key}", problem)
        results = texts.pop("results") or OUTPUT
        if results != OUTPUT and (problem := path_problem(results)):
            self._fields.add("command.results", f"`{results}` {problem}")
        arguments = command.get("arguments", [])
        form = COMMAND.keys["arguments"]
        assert isinstance(form, TextsForm)
        if not isinstance(arguments, list) or len(arguments) > form.most:
            self._fields.add("command.arguments", f"is no list of at most {form.most} texts")
            arguments = []
        written = []
        for index in range(len(arguments)):
            field = f"command.arguments[{index}]"
            text = self._fields.document.texts.get(field, "")
            if len(text) > form.longest or not text.isprintable() or not text:
                self._fields.add(field, f"is no printable text of 1 to {form.longest} characters")
            written.append(text)
        return Command(
            program=self._registered(command, "command", "program", COMMAND.keys["program"]),
            arguments=tuple(written),
            results=results,
            **texts,
        )

    def _table(self, value: Any) -> Table:
        table = self._fields.mapping(value, "table", form=TABLE, required=True)
        file = self._fields.text(table, "table", "file", TABLE.keys["file"])
        if self._file(file, "table.file") and not file.endswith((".csv", ".parquet")):
            self._fields.add("table.file", f"`{file}` is neither .csv nor .parquet")
        return Table(
            file=file,
            lookup=Lookup(self._fields.one_of(table, "table", "lookup", TABLE.keys["lookup"])),
            within=self._fields.number(table, "table", "within", TABLE.keys["within"]),
        )

    def _paths(self, value: Any, key: str) -> tuple[str, ...]:
        paths = value if isinstance(value, list) else [value]
        files: list[str] = []
        if not paths:
            self._fields.add(key, "is empty; name the netlist")
        for index, path in enumerate(paths):
            field = f"{key}[{index}]" if isinstance(value, list) else key
            if not isinstance(path, str):
                self._fields.add(field, "is no file name")
            elif self._file(path, field):
                if path in files:
                    self._fields.add(field, f"`{path}` is named twice")
                files.append(path)
        return tuple(files)

    def _entry(self, root: dict[str, Any], key: str) -> str:
        entry = self._fields.text(root, "", key, DECK.keys[key])
        path, colon, function = entry.partition(":")
        if not colon or not path.endswith(".py") or not function.isidentifier():
            self._fields.add(key, f"`{entry}` is not such as `deck.py:evaluate`")
        elif self._file(path, key):
            names = [
                item.get("name") for item in root.get("parameters") or [] if isinstance(item, dict)
            ]
            self._function(path, function, key, names)
        return entry

    def _function(self, path: str, function: str, key: str, names: list[Any]) -> None:
        """Looks for the entry without running anything of it."""
        try:
            with _PARSING, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(self._files[path])
        except SyntaxError as error:
            self._fields.violations.add(
                f"{path}:{error.lineno or 1}", f"is not Python: {error.msg}"
            )
            return
        except (ValueError, RecursionError, MemoryError):
            self._fields.violations.add(path, "is not Python that can be read")
            return
        bound: dict[str, ast.stmt] = {}
        for node in tree.body:
            for name in _bound_names(node):
                bound[name] = node
        if function not in bound:
            self._fields.add(key, f"{path} has no function `{function}`{suggest(function, bound)}")
            return
        statement = bound[function]
        if isinstance(statement, ast.AsyncFunctionDef | ast.ClassDef):
            self._fields.violations.add(
                f"{path}:{statement.lineno}", f"`{function}` must be a plain function"
            )
        elif isinstance(statement, ast.FunctionDef) and not (
            _takes_one(statement.args) or _takes_named(statement.args, names)
        ):
            self._fields.violations.add(
                f"{path}:{statement.lineno}",
                f"`{function}` must take the deck's parameters by their names, or one argument, "
                "the dict of parameters",
            )

    def check(
        self,
        sources: dict[str, Any],
        simulator: str,
        parameters: list[Parameter],
        responses: list[Response],
        named: list[Place],
    ) -> None:
        """What is run against what is declared."""
        if simulator != "command":
            for index, response in enumerate(responses):
                if response.pattern:
                    self._fields.add(
                        f"responses[{index}].pattern", "is used by the simulator command alone"
                    )
        if simulator == "ngspice":
            self._check_netlists(sources, parameters, responses, named)
        else:
            self._check_texts(sources, parameters, named)

    def _check_texts(
        self, sources: dict[str, Any], parameters: list[Parameter], named: list[Place]
    ) -> None:
        """The placeholders of files and arguments that are no netlists."""
        names = [place.name for place in named]
        used: set[str] = set()
        for path in sources["templates"]:
            used |= self._placeholders(path, self._files[path], names)
        command: Command | None = sources.get("command")
        for index, text in enumerate(command.arguments if command else ()):
            used |= self._placeholders(f"command.arguments[{index}]", text.encode(), names)
        if sources["templates"]:
            self._check_choices(parameters, named)
        if command:
            for place in named:
                if place.name not in used:
                    self._fields.add(
                        f"{place.path}.name",
                        f"no placeholder `@{place.name}@` in a template or an argument of the "
                        "command; use the parameter or remove it",
                    )

    def _check_netlists(
        self,
        sources: dict[str, Any],
        parameters: list[Parameter],
        responses: list[Response],
        named: list[Place],
    ) -> None:
        """Placeholders against parameters, measures against responses, and what may be run."""
        templates: tuple[str, ...] = sources["templates"]
        names = [place.name for place in named]
        used: set[str] = set()
        words: set[str] = set()
        for path, content in self._files.items():
            if path == DECK_FILE or path.endswith((".py", ".osdi")):
                continue
            try:
                text = content.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                line = content[: error.start].count(b"\n") + 1
                self._fields.violations.add(
                    f"{path}:{line}", "is not UTF-8; save the file as UTF-8"
                )
                # Enough of it is read to find what else is wrong.
                text = content.decode(errors="replace")
            # ngspice ignores case, and a measure may be in any file that the netlist includes.
            words.update(re.findall(r"[a-z_][a-z0-9_.]*", text.lower()))
            if path in templates:
                used |= self._placeholders(path, content, names)
        # A deck without templates has reported that; then no placeholder can be missing.
        if not templates:
            return
        for place in named:
            if place.name not in used:
                where = ", ".join(templates)
                self._fields.add(
                    f"{place.path}.name",
                    f"no placeholder `@{place.name}@` in {where}; use the parameter or remove it",
                )
        for index, response in enumerate(responses):
            if response.extract.lower() not in words and "extract" not in sources:
                self._fields.add(
                    f"responses[{index}].{'measure' if response.measure else 'name'}",
                    f"no `.meas` or `print` of `{response.extract}` in the deck's files",
                )
        self._check_choices(parameters, named)

    def _check_choices(self, parameters: list[Parameter], named: list[Place]) -> None:
        # A choice becomes text of the netlist: a line break in it would be a command of its own.
        for parameter in parameters:
            for choice in parameter.choices:
                if isinstance(choice, str) and not _SAFE_CHOICE.fullmatch(choice):
                    place = next(place for place in named if place.name == parameter.name)
                    self._fields.add(
                        f"{place.path}.choices",
                        f"`{choice}` is put into a file; use letters, digits and _ . + - only",
                    )

    def _placeholders(self, path: str, content: bytes, names: list[str]) -> set[str]:
        used: set[str] = set()
        for match in PLACEHOLDER.finditer(content):
            name = match.group(1).decode()
            if name not in names and name not in used:
                line = content[: match.start()].count(b"\n") + 1
                self._fields.violations.add(
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
        return [name.asname or name.name for name in statement.names]
    if isinstance(statement, ast.Assign):
        return [target.id for target in statement.targets if isinstance(target, ast.Name)]
    return []


def pattern_problem(pattern: str, *, groups: int = 0) -> str:
    """Why a regular expression cannot be used, or nothing.

    Args:
        pattern: The expression.
        groups: How many groups it has to have at least.
    """
    try:
        compiled = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        return f"is no regular expression: {error}"
    if compiled.groups < groups:
        return "has no group: put parentheses around the value, such as `gain = (\\S+)`"
    return ""


def _takes_named(arguments: ast.arguments, names: list[Any]) -> bool:
    """Whether a function can be called with the parameters by their names."""
    listed = [*arguments.args, *arguments.kwonlyargs]
    optional = {
        argument.arg for argument in listed[len(arguments.args) - len(arguments.defaults) :]
    }
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if default is None:
            optional.discard(argument.arg)
    required = {argument.arg for argument in listed} - optional
    taken = {argument.arg for argument in listed}
    return (
        not arguments.posonlyargs
        and required <= set(names)
        and (arguments.kwarg is not None or set(names) <= taken)
    )


def _takes_one(arguments: ast.arguments) -> bool:
    """Whether a function can be called with one positional argument."""
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    needed = [kw_default for kw_default in arguments.kw_defaults if kw_default is None]
    return required <= 1 and (positional >= 1 or arguments.vararg is not None) and not needed
