"""deck.yaml to a deck, every mistake at once with its file, line and field."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.expressions import Constraint, parse_constraint, suggest
from vistaflow_services.decks.archives import path_problem
from vistaflow_services.decks.definition import (
    DECK_FILE,
    PLACEHOLDER,
    SIMULATORS,
    Deck,
    FailurePolicy,
    Policy,
    Response,
)
from vistaflow_services.decks.document import Document, read_document
from vistaflow_services.decks.feasibility import find_feasible, never_met
from vistaflow_services.decks.netlists import screen_netlist
from vistaflow_services.decks.parameter import Kind, Parameter, Scale, check_name
from vistaflow_services.decks.space import Space

MAX_RESPONSES: Final = 100
MAX_CONSTRAINTS: Final = 100
MAX_TIMEOUT: Final = 7 * 86400.0
"""Longest time one run may be given, in seconds."""

_KEYS: Final = {
    "": [
        "name",
        "version",
        "description",
        "simulator",
        "template",
        "entry",
        "function",
        "parameters",
        "responses",
        "constraints",
        "failure",
        "timeout",
        "memory_limit",
    ],
    "parameters": ["name", "type", "range", "choices", "unit", "scale", "default", "description"],
    "responses": ["name", "unit", "description", "measure", "range"],
    "failure": ["policy", "retries", "max_failed_fraction", "substitute"],
}
_SOURCES: Final = {"devsim": "entry", "ngspice": "template", "function": "function"}
"""The key that tells each simulator what to run."""

_MEMORY: Final = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30,
}  # fmt: skip
_SECONDS: Final = {"s": 1.0, "min": 60.0, "h": 3600.0}
_SAFE_CHOICE = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*")


def parse_deck(files: Mapping[str, bytes]) -> Deck:
    """The deck that files describe; nothing of it is run or imported.

    Args:
        files: Contents by path in the deck, among them deck.yaml.

    Raises:
        InvalidError: With every mistake, its field such as `deck.yaml:12 parameters[2].range`.
    """
    if DECK_FILE not in files:
        near = suggest(DECK_FILE, [each for each in files if each.endswith((".yaml", ".yml"))])
        found = Violations()
        found.add(DECK_FILE, f"missing; a deck's folder has a file of this name in it{near}")
        found.check()
    document = read_document(files[DECK_FILE], DECK_FILE)
    return _Loader(document, files).deck()


@dataclass(frozen=True)
class _Place:
    """Where a named thing of the deck is in the document."""

    path: str
    name: str


class _Loader:
    """Reads one deck; goes on after a mistake as far as the rest still makes sense."""

    def __init__(self, document: Document, files: Mapping[str, bytes]) -> None:
        self._document = document
        self._files = files
        self._found = Violations()

    def deck(self) -> Deck:
        told = self._mapping(self._document.root, "", required=True)
        for key in ("name", "simulator", "parameters", "responses"):
            if key not in told:
                self._add(key, "missing")
        name = self._text(told, "", "name")
        if "name" in told:
            self._name(name, "name")
        simulator = self._one_of(told, "", "simulator", SIMULATORS, "")
        parameters, named = self._parameters(told.get("parameters"), "parameters" in told)
        responses = self._responses(told.get("responses"), "responses" in told, named)
        constraints = self._constraints(told.get("constraints"), parameters, named)
        sources = self._sources(told, simulator)
        if simulator == "ngspice":
            self._netlists(sources["templates"], parameters, responses, named)
        deck_fields: dict[str, Any] = {
            "name": name,
            "version": self._text(told, "", "version", longest=40) or "1",
            "description": self._text(told, "", "description", longest=8000),
            "simulator": simulator,
            "responses": tuple(responses),
            "failure_policy": self._failure(told.get("failure"), responses),
            "files": self._files,
            "timeout_seconds": self._timeout(told),
            "memory_limit_bytes": self._memory(told),
            **sources,
        }
        if self._found:
            self._found.check()
        space = Space(parameters=tuple(parameters), constraints=tuple(constraints))
        self._feasible(space)
        self._found.check()
        return Deck(space=space, **deck_fields)

    def _parameters(self, told: Any, given: bool) -> tuple[list[Parameter], list[_Place]]:
        """The parameters that are right, and the names of all."""
        parameters: list[Parameter] = []
        named: list[_Place] = []
        for path, each in self._items(told, "parameters", given, 200):
            name = self._named(each, path, named)
            kind = Kind(self._one_of(each, path, "type", tuple(Kind), "real"))
            scale = Scale(self._one_of(each, path, "scale", tuple(Scale), "linear"))
            low, high = self._range(each, path, open_ended=False)
            choices = each.get("choices", [])
            if not isinstance(choices, list):
                self._add(f"{path}.choices", "is no list; write [first, second]")
                continue
            if kind in (Kind.REAL, Kind.INTEGER) and "range" not in each and not choices:
                self._add(f"{path}.range", f"missing; a {kind} parameter has `range: [low, high]`")
                continue
            if kind not in (Kind.REAL, Kind.INTEGER) and "choices" not in each:
                self._add(f"{path}.choices", f"missing; a {kind} parameter has a list of choices")
                continue
            if "range" in each and (low is None or high is None):
                continue
            try:
                parameter = Parameter(
                    # A bad name was told already; the rest is looked at all the same.
                    name=name or "unnamed",
                    kind=kind,
                    low=low,
                    high=high,
                    choices=tuple(choices),
                    unit=self._text(each, path, "unit", longest=32),
                    scale=scale,
                    default=each.get("default"),
                    description=self._text(each, path, "description", longest=2000),
                )
            except InvalidError as error:
                for wrong in error.violations:
                    field = "range" if wrong.field in ("low", "high") else wrong.field
                    self._add(f"{path}.{field}", wrong.description)
                continue
            if name:
                parameters.append(parameter)
        return parameters, named

    def _responses(self, told: Any, given: bool, parameters: list[_Place]) -> list[Response]:
        responses: list[Response] = []
        named = list(parameters)
        for path, each in self._items(told, "responses", given, MAX_RESPONSES):
            name = self._named(each, path, named)
            low, high = self._range(each, path, open_ended=True)
            measure = self._text(each, path, "measure", longest=64)
            if measure and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", measure):
                self._add(f"{path}.measure", f"`{measure}` is no name of a measurement")
            if name:
                unit = self._text(each, path, "unit", longest=32)
                description = self._text(each, path, "description", longest=2000)
                responses.append(
                    Response(
                        name=name,
                        unit=unit,
                        description=description,
                        low=low,
                        high=high,
                        measure=measure,
                    )
                )
        return responses

    def _constraints(
        self, told: Any, parameters: list[Parameter], named: list[_Place]
    ) -> list[Constraint]:
        constraints: list[Constraint] = []
        numeric = [each.name for each in parameters if each.is_numeric]
        # A parameter with another mistake is known all the same.
        names = {*numeric, *(each.name for each in named)} - {
            each.name for each in parameters if not each.is_numeric
        }
        if told is None:
            return []
        if not isinstance(told, list) or len(told) > MAX_CONSTRAINTS:
            self._add("constraints", f"is no list of at most {MAX_CONSTRAINTS} texts")
            return []
        for at, each in enumerate(told):
            if not isinstance(each, str):
                self._add(f"constraints[{at}]", 'is no text; write such as "h <= b"')
                continue
            try:
                constraints.append(parse_constraint(each, names))
            except InvalidError as error:
                self._add(f"constraints[{at}]", error.message)
        return constraints

    def _feasible(self, space: Space) -> None:
        if not space.constraints or find_feasible(space) is not None:
            return
        alone = never_met(space)
        for at in alone:
            self._add(
                f"constraints[{at}]",
                f"no point of the space meets `{space.constraints[at]}`; "
                "loosen it or widen the ranges it reads",
            )
        if not alone:
            self._add(
                "constraints",
                "no point of the space meets all of them together; they contradict each other "
                "within the parameters' ranges",
            )

    def _failure(self, told: Any, responses: list[Response]) -> FailurePolicy:
        if told is None:
            return FailurePolicy()
        told = self._mapping(told, "failure")
        policy = Policy(self._one_of(told, "failure", "policy", tuple(Policy), "continue"))
        fallback = 1 if policy is Policy.RETRY else 0
        retries = self._number(told, "failure", "retries", fallback, 0, 10, whole=True)
        fraction = self._number(told, "failure", "max_failed_fraction", 0.5, 0, 1)
        substitute: dict[str, float] = {}
        given = self._mapping(told.get("substitute", {}), "failure.substitute", free=True)
        known = [each.name for each in responses]
        for name in given:
            path = f"failure.substitute.{name}"
            if name not in known:
                self._add(path, f"is no response{suggest(name, known)}")
            substitute[name] = self._number(
                given, "failure.substitute", name, 0, -math.inf, math.inf
            )
        if policy is Policy.SUBSTITUTE:
            for name in known:
                if name not in given:
                    self._add("failure.substitute", f"needs a value for the response `{name}`")
        elif given:
            self._add("failure.substitute", f"is not used by the policy {policy}; leave it out")
        return FailurePolicy(
            policy=policy,
            retries=int(retries),
            max_failed_fraction=fraction,
            substitute=substitute,
        )

    def _sources(self, told: dict[str, Any], simulator: str) -> dict[str, Any]:
        """What the simulator runs: exactly the key that is its own."""
        sources: dict[str, Any] = {"templates": (), "entry": "", "function": ""}
        own = _SOURCES.get(simulator)
        for key in _SOURCES.values():
            if own and key in told and key != own:
                self._add(key, f"is not used by the simulator {simulator}; it has `{own}`")
        if own and own not in told:
            self._add(own, f"missing; the simulator {simulator} needs it")
        elif own == "template":
            sources["templates"] = self._templates(told["template"])
        elif own == "entry":
            sources["entry"] = self._entry(told)
        elif own == "function":
            sources["function"] = self._text(told, "", "function")
            self._name(sources["function"], "function")
        return sources

    def _templates(self, told: Any) -> tuple[str, ...]:
        paths = told if isinstance(told, list) else [told]
        templates: list[str] = []
        if not paths:
            self._add("template", "is empty; name the netlist")
        for at, path in enumerate(paths):
            field = f"template[{at}]" if isinstance(told, list) else "template"
            if not isinstance(path, str):
                self._add(field, "is no file name")
            elif self._file(path, field):
                if path in templates:
                    self._add(field, f"`{path}` is named twice")
                templates.append(path)
        return tuple(templates)

    def _entry(self, told: dict[str, Any]) -> str:
        entry = self._text(told, "", "entry")
        path, colon, function = entry.partition(":")
        if not colon or not path.endswith(".py") or not function.isidentifier():
            self._add("entry", f"`{entry}` is not such as `deck.py:evaluate`")
        elif self._file(path, "entry"):
            self._function(path, function)
        return entry

    def _function(self, path: str, function: str) -> None:
        """Looks for the entry without running anything of it."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(self._files[path])
        except SyntaxError as error:
            self._found.add(f"{path}:{error.lineno or 1}", f"is not Python: {error.msg}")
            return
        except (ValueError, RecursionError, MemoryError):
            self._found.add(path, "is not Python that can be read")
            return
        bound: dict[str, ast.stmt] = {}
        for each in tree.body:
            for name in _bound_names(each):
                bound[name] = each
        if function not in bound:
            self._add("entry", f"{path} has no function `{function}`{suggest(function, bound)}")
            return
        found = bound[function]
        if isinstance(found, ast.AsyncFunctionDef | ast.ClassDef):
            self._found.add(f"{path}:{found.lineno}", f"`{function}` must be a plain function")
        elif isinstance(found, ast.FunctionDef) and not _takes_one(found.args):
            self._found.add(
                f"{path}:{found.lineno}",
                f"`{function}` must take one argument, the dict of parameters",
            )

    def _netlists(
        self,
        templates: tuple[str, ...],
        parameters: list[Parameter],
        responses: list[Response],
        named: list[_Place],
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
                self._found.add(f"{path}:{line}", "is not UTF-8; save the file as UTF-8")
                continue
            words.update(re.findall(r"[a-z_][a-z0-9_.]*", text.lower()))
            for line, problem in screen_netlist(text, self._files):
                self._found.add(f"{path}:{line}", problem)
            if path in templates:
                used |= self._placeholders(path, content, names)
        if not templates:
            return
        for each in named:
            if each.name not in used:
                where = ", ".join(templates)
                self._add(
                    f"{each.path}.name",
                    f"no placeholder `@{each.name}@` in {where}; use the parameter or remove it",
                )
        for at, response in enumerate(responses):
            if response.extract.lower() not in words:
                self._add(
                    f"responses[{at}].{'measure' if response.measure else 'name'}",
                    f"no `.meas` or `print` of `{response.extract}` in the deck's files",
                )
        for parameter in parameters:
            for choice in parameter.choices:
                if isinstance(choice, str) and not _SAFE_CHOICE.fullmatch(choice):
                    place = next(each for each in named if each.name == parameter.name)
                    self._add(
                        f"{place.path}.choices",
                        f"`{choice}` is put into a netlist; use letters, digits and _ . + - only",
                    )

    def _placeholders(self, path: str, content: bytes, names: list[str]) -> set[str]:
        used: set[str] = set()
        for match in PLACEHOLDER.finditer(content):
            name = match.group(1).decode()
            if name not in names and name not in used:
                line = content[: match.start()].count(b"\n") + 1
                self._found.add(
                    f"{path}:{line}", f"no parameter for `@{name}@`{suggest(name, names)}"
                )
            used.add(name)
        return used

    def _timeout(self, told: dict[str, Any]) -> float:
        value = told.get("timeout", 300.0)
        if isinstance(value, str) and (match := re.fullmatch(r"([\d.]+)\s*(s|min|h)", value)):
            value = _float(match.group(1)) * _SECONDS[match.group(2)]
        if not _is_number(value) or not 0 < value <= MAX_TIMEOUT:
            self._add("timeout", f"give seconds, above 0 and at most {MAX_TIMEOUT:.0f}, or `5 min`")
            return 300.0
        return float(value)

    def _memory(self, told: dict[str, Any]) -> int:
        value = told.get("memory_limit", 2 * 1024**3)
        if isinstance(value, str) and (match := re.fullmatch(r"([\d.]+)\s*([A-Za-z]+)", value)):
            value = _float(match.group(1)) * _MEMORY.get(match.group(2).upper(), math.nan)
        if not _is_number(value) or not 16 * 2**20 <= value <= 2**40:
            self._add("memory_limit", "give `512 MiB` or a number of bytes, 16 MiB to 1024 GiB")
            return 2 * 1024**3
        return int(value)

    def _items(self, told: Any, path: str, given: bool, most: int) -> list[tuple[str, Any]]:
        """The mappings of a list, each with its path."""
        if not isinstance(told, list) or not told:
            if given:
                self._add(path, "is no list with at least one entry")
            return []
        if len(told) > most:
            self._add(path, f"has {len(told)} entries, at most {most} are allowed")
            told = told[:most]
        items = []
        for at, each in enumerate(told):
            inner = f"{path}[{at}]"
            items.append((inner, self._mapping(each, inner, keys=path)))
        return items

    def _mapping(
        self,
        told: Any,
        path: str,
        *,
        keys: str | None = None,
        free: bool = False,
        required: bool = False,
    ) -> dict[str, Any]:
        if not isinstance(told, dict):
            if told is not None or required or keys:
                self._add(path, "is no mapping of keys to values")
            return {}
        known = _KEYS[path if keys is None else keys] if not free else list(told)
        for key in told:
            if key not in known:
                self._add(f"{path}.{key}" if path else key, f"unknown key{suggest(key, known)}")
        return told

    def _named(self, told: dict[str, Any], path: str, named: list[_Place]) -> str:
        """The name of a parameter or response, if it can stand; notes it among the others."""
        if not told:
            return ""
        if "name" not in told:
            self._add(f"{path}.name", "missing")
            return ""
        name = self._text(told, path, "name")
        if not self._name(name, f"{path}.name"):
            return ""
        for other in named:
            if other.name == name:
                self._add(f"{path}.name", f"`{name}` is already the name of {other.path}")
                return ""
        named.append(_Place(path=path, name=name))
        return name

    def _name(self, name: str, path: str) -> bool:
        found = Violations()
        check_name(name, path, found)
        for each in found:
            self._add(path, each.description)
        return not found

    def _text(self, told: dict[str, Any], path: str, key: str, *, longest: int = 64) -> str:
        """A text as it was written, so that `version: 1.10` stays what it is."""
        inner = f"{path}.{key}" if path else key
        if told.get(key) is None:
            return ""
        text = self._document.texts.get(inner)
        if text is None:
            self._add(inner, "is no text")
            return ""
        if len(text) > longest or not all(each.isprintable() or each == "\n" for each in text):
            self._add(inner, f"is no printable text of at most {longest} characters")
            return ""
        return text.strip()

    def _one_of(
        self, told: dict[str, Any], path: str, key: str, known: tuple[str, ...], fallback: str
    ) -> str:
        if told.get(key) is None:
            return fallback
        value = told[key]
        if value not in known:
            near = suggest(str(value)[:64], known)
            self._add(f"{path}.{key}" if path else key, f"`{value}` is unknown{near}")
            return fallback
        return str(value)

    def _range(
        self, told: dict[str, Any], path: str, *, open_ended: bool
    ) -> tuple[float | None, float | None]:
        """Two numbers, the first smaller; null leaves an end of a response's gate open."""
        if told.get("range") is None:
            if "range" in told:
                self._add(f"{path}.range", "is empty; give two numbers, [low, high]")
            return None, None
        pair = told["range"]
        ends = pair if isinstance(pair, list) else []
        right = [_is_number(each) or (open_ended and each is None) for each in ends]
        if right != [True, True]:
            self._add(f"{path}.range", "is no pair of numbers, [low, high]")
            return None, None
        low, high = ends
        if open_ended:
            if any(each is not None and not math.isfinite(each) for each in ends):
                self._add(f"{path}.range", "must be finite; leave an end open with null")
                return None, None
            if low is not None and high is not None and low >= high:
                self._add(f"{path}.range", f"{low!r} is not below the upper end {high!r}")
        return low, high

    def _number(
        self,
        told: dict[str, Any],
        path: str,
        key: str,
        fallback: float,
        low: float,
        high: float,
        *,
        whole: bool = False,
    ) -> float:
        value = told.get(key, fallback)
        right = _is_number(value) and math.isfinite(value) and low <= value <= high
        if not right or (whole and value != int(value)):
            kind = "a whole number" if whole else "a number"
            bounds = f" from {low:g} to {high:g}" if math.isfinite(low) else ""
            self._add(f"{path}.{key}", f"`{value}` is not {kind}{bounds}")
            return fallback
        return float(value)

    def _file(self, path: str, field: str) -> bool:
        problem = path_problem(path)
        if not problem and path not in self._files:
            problem = f"is no file of the deck{suggest(path, self._files)}"
        if problem:
            self._add(field, f"`{path[:200]}` {problem}")
        return not problem

    def _add(self, path: str, problem: str) -> None:
        self._found.add(self._document.field(path), problem)


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


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
