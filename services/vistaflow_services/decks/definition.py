"""What a deck is: a simulator's input with named parameters and named responses."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import yaml

from vistaflow_services.core.errors import Violations
from vistaflow_services.decks.archives import write_archive
from vistaflow_services.decks.space import Point, Space

DECK_FILE: Final = "deck.yaml"
"""The file of a deck's folder that describes it."""

SIMULATORS: Final = ("devsim", "ngspice", "function", "python", "command", "grpc", "table")
"""The simulators that a deck may name."""

NO_RESPONSE: Final = "none"
"""As the only entry of a list of responses it means none; an empty list means a default."""

PLACEHOLDER: Final = re.compile(rb"@([A-Za-z_][A-Za-z0-9_]*)@")
"""Where a template takes a parameter's value."""

SIGNED: Final = re.compile(rb"(-?)" + PLACEHOLDER.pattern)
"""The same with the minus sign before it, if there is one."""

_OPERAND_ENDS: Final = re.compile(rb"[\w.)\]}@][ \t]*\Z")
_POWER: Final = re.compile(rb"[ \t]*(\^|\*\*)")


class Policy(StrEnum):
    """What to do with a point whose simulation failed."""

    ABORT = "abort"
    """Fail the job at the first failed point."""
    RETRY = "retry"
    """Run it again up to `retries` times, then go on as `continue`."""
    SUBSTITUTE = "substitute"
    """Put the given responses in its place."""
    CONTINUE = "continue"
    """Keep the failure as data."""


@dataclass(frozen=True, kw_only=True)
class FailurePolicy:
    """What failed simulations do to the job that ran them."""

    policy: Policy = Policy.CONTINUE
    retries: int = 0
    """Further runs of a failed point, 0 to 10; for `retry`."""
    max_failed_fraction: float = 0.5
    """The job fails when more than this part of its points failed, whatever the policy."""
    substitute: Mapping[str, float] = field(default_factory=dict)
    """A value for each response; for `substitute`."""

    def changed(
        self, policy: str, max_failed_fraction: float | None, responses: Collection[str]
    ) -> FailurePolicy:
        """The policy of a request.

        Args:
            policy: Another policy's name; empty: the same.
            max_failed_fraction: Another fraction; None: the same.
            responses: Those of the deck.

        Raises:
            InvalidError: With the fields `failure_policy` and `max_failed_fraction`.
        """
        violations = Violations()
        changed = self
        if policy not in ("", *Policy):
            violations.add("failure_policy", f"`{policy}` is none of {', '.join(Policy)}")
        elif policy == Policy.SUBSTITUTE and set(self.substitute) != set(responses):
            violations.add(
                "failure_policy",
                "the deck has no substitute values: choose another policy, or give the deck a "
                "value for each response",
            )
        elif policy:
            retries = max(self.retries, 1) if policy == Policy.RETRY else self.retries
            changed = replace(self, policy=Policy(policy), retries=retries)
        if max_failed_fraction is not None:
            if not 0 <= max_failed_fraction <= 1:
                violations.add("max_failed_fraction", f"{max_failed_fraction} is not in 0 to 1")
            changed = replace(changed, max_failed_fraction=max_failed_fraction)
        violations.check()
        return changed

    def to_dict(self) -> dict[str, Any]:
        """The policy as JSON-able values."""
        return {
            "policy": str(self.policy),
            "retries": self.retries,
            "max_failed_fraction": self.max_failed_fraction,
            "substitute": dict(sorted(self.substitute.items())),
        }


@dataclass(frozen=True, kw_only=True)
class Response:
    """Something that the simulator returns for a point."""

    name: str
    unit: str = ""
    description: str = ""
    low: float | None = None
    """A run that returns less has failed: nothing physical lies below."""
    high: float | None = None
    """A run that returns more has failed."""
    measure: str = ""
    """What the simulator calls it, if not `name`: the `.meas` of ngspice, a key of the entry."""
    title: str = ""
    """What people call it, in any script."""
    pattern: str = ""
    """A regular expression whose first group is the value, in the results of a command."""
    fallback: float | None = None
    """The value where the run went well and the simulator says that there is none."""

    @property
    def extract(self) -> str:
        """What the simulator calls it."""
        return self.measure or self.name

    def accepts(self, value: float) -> bool:
        """Whether a value is finite and physical."""
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return math.isfinite(value) and low <= value <= high

    def to_dict(self) -> dict[str, Any]:
        """The response as JSON-able values; unset fields are left out."""
        fields: dict[str, Any] = {"name": self.name}
        for key in ("unit", "description", "measure", "title", "pattern"):
            if getattr(self, key):
                fields[key] = getattr(self, key)
        if self.fallback is not None:
            fields["fallback"] = self.fallback
        if self.low is not None or self.high is not None:
            fields["range"] = [self.low, self.high]
        return fields


OUTPUT: Final = "output"
"""As the results of a command: its standard output."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A program of the machine, registered by its operator, and how its results are read."""

    program: str
    """The name that it is registered by."""
    arguments: tuple[str, ...] = ()
    """What it is called with; placeholders are filled."""
    results: str = OUTPUT
    """The file that it writes, read as JSON or CSV by its name; or `output`."""
    license: str = ""
    """A regular expression: the run failed for want of a licence if it is in the output."""
    no_convergence: str = ""
    """A regular expression: the run did not converge if it is in the output."""

    def to_dict(self) -> dict[str, Any]:
        """The command as JSON-able values; unset fields are left out."""
        fields: dict[str, Any] = {"program": self.program, "arguments": list(self.arguments)}
        for key in ("results", "license", "no_convergence"):
            if getattr(self, key):
                fields[key] = getattr(self, key)
        return fields


class Lookup(StrEnum):
    """How a table answers for a point."""

    EXACT = "exact"
    """By a row with exactly its values."""
    NEAREST = "nearest"
    """By the nearest row, if it is near enough."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Measured points, a column for each parameter and response."""

    file: str
    """A CSV or Parquet file of the deck."""
    lookup: Lookup = Lookup.EXACT
    within: float = 0.05
    """How far the nearest row may be, in each parameter, as a part of its range."""

    def to_dict(self) -> dict[str, Any]:
        """The table as JSON-able values."""
        return {"file": self.file, "lookup": str(self.lookup), "within": self.within}


@dataclass(frozen=True, kw_only=True)
class Deck:
    """A simulator's input with named parameters and responses; `load_deck` makes valid ones."""

    name: str
    version: str = "1"
    description: str = ""
    simulator: str
    """One of `SIMULATORS`."""
    space: Space
    responses: tuple[Response, ...]
    failure_policy: FailurePolicy = field(default_factory=FailurePolicy)
    files: Mapping[str, bytes] = field(default_factory=dict)
    """The deck's files by their path in it, with `/` between folders."""
    templates: tuple[str, ...] = ()
    """The files whose placeholders are filled; the first is what the simulator is given."""
    entry: str = ""
    """`file.py:function`, called with the parameters and returning the responses; for devsim and
    python."""
    function: str = ""
    """The named analytic function; for the simulator `function`."""
    testbenches: tuple[str, ...] = ()
    """The netlists that are run for a point, if not the first template alone; for ngspice."""
    extract: str = ""
    """`file.py:function`, called after the simulator in the run's folder; for ngspice and
    command."""
    command: Command | None = None
    """For the simulator `command`."""
    server: str = ""
    """The name that the server is registered by; for the simulator `grpc`."""
    table: Table | None = None
    """For the simulator `table`."""
    timeout_seconds: float = 300.0
    """The wall clock that one run may take."""
    memory_limit_bytes: int = 2 * 1024**3
    """The address space that one run may take."""
    noisy: bool = False
    """Whether two runs of one point may differ; several runs then verify the best point."""
    keep_files: bool = False
    """Whether the files that its runs write are stored."""
    points_per_process: int = 1
    """How many points ngspice may run one after the other in one process."""

    @property
    def response_names(self) -> list[str]:
        """The responses' names, in their order."""
        return [response.name for response in self.responses]

    @property
    def netlists(self) -> tuple[str, ...]:
        """The netlists that are run for a point."""
        return self.testbenches or self.templates[:1]

    @property
    def entry_file(self) -> str:
        """The Python file that is run."""
        return self.entry.partition(":")[0]

    @property
    def entry_function(self) -> str:
        """The function in it that is called."""
        return self.entry.partition(":")[2]

    def to_dict(self) -> dict[str, Any]:
        """What the deck says about itself, as JSON-able values; the files are not in it."""
        fields: dict[str, Any] = {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "simulator": self.simulator,
            **self.space.to_dict(),
            "responses": [response.to_dict() for response in self.responses],
            "failure": self.failure_policy.to_dict(),
            "timeout": float(self.timeout_seconds),
            "memory_limit": self.memory_limit_bytes,
        }
        if self.noisy:
            fields["noisy"] = True
        if self.keep_files:
            fields["keep_files"] = True
        if self.points_per_process > 1:
            fields["points_per_process"] = self.points_per_process
        if self.templates:
            fields["template"] = list(self.templates)
        if self.testbenches:
            fields["testbenches"] = list(self.testbenches)
        for key in ("entry", "function", "extract", "server"):
            if getattr(self, key):
                fields[key] = getattr(self, key)
        for key, part in (("command", self.command), ("table", self.table)):
            if part is not None:
                fields[key] = part.to_dict()
        return fields

    @cached_property
    def digest(self) -> str:
        """The deck's identity: the SHA-256, in hex, of what it says and of its other files.

        Comments and layout of deck.yaml do not count; everything it says does.
        """
        files = {
            path: hashlib.sha256(content).hexdigest()
            for path, content in self.files.items()
            if path != DECK_FILE
        }
        identity = json.dumps(
            {"format": 1, "deck": self.to_dict(), "files": files},
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        return hashlib.sha256(identity.encode()).hexdigest()

    @cached_property
    def simulation_digest(self) -> str:
        """The identity of what a simulator is given: SHA-256 in hex.

        Decks that share it give the same figures at the same point. What a run may take of time
        and memory, which points are asked for, how failures are dealt with and which figures are
        physical is not in it: changing these leaves every figure as it was. The version is: who
        changes it has everything run again.
        """
        files = {
            path: hashlib.sha256(content).hexdigest()
            for path, content in self.files.items()
            if path != DECK_FILE
        }
        own = self.to_dict()
        rest: dict[str, Any] = {
            key: own[key]
            for key in ("testbenches", "extract", "command", "server", "table")
            if key in own
        }
        for key in ("pattern", "fallback"):
            values = {response.name: getattr(response, key) for response in self.responses}
            if any(value not in ("", None) for value in values.values()):
                rest[key] = values
        by_name = self.function or self.server or self.table
        text = json.dumps(
            {
                **rest,
                "format": 2,
                "version": self.version,
                "simulator": self.simulator,
                "template": list(self.templates),
                "entry": self.entry,
                "function": self.function,
                "parameters": self.space.names if by_name else [],
                "responses": {response.name: response.extract for response in self.responses},
                "files": files,
            },
            sort_keys=True,
            separators=(",", ":"),
        )
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def folded_signs(self) -> tuple[tuple[str, int, str], ...]:
        """Where negative values meet a sign or a power, so that they are not written as they are.

        File, line and parameter of each place in a template.
        """
        negative = {
            parameter.name.encode()
            for parameter in self.space.parameters
            if any(_is_negative(value) for value in (parameter.low, *parameter.choices))
        }
        return tuple(
            (path, content[: match.start()].count(b"\n") + 1, match[2].decode())
            for path in self.templates
            for content in (self.files[path],)
            for match in SIGNED.finditer(content)
            if match[2] in negative and (match[1] or _POWER.match(content, match.end()))
        )

    @cached_property
    def warnings(self) -> tuple[str, ...]:
        """What is allowed but looks unintended, for people."""
        return tuple(
            f"{path}:{line}: `@{name}@` is beside a minus sign or a power and its range "
            "includes values below 0: a negative value is written as one value (`-@x@` is "
            "1.5 where x is -1.5, `@x@^2` is (-1.5)^2); check that this is intended"
            for path, line, name in self.folded_signs
        )

    def render(self, point: Point) -> dict[str, bytes]:
        """The files of one run: templates with the point's values in them, the others as they are.

        Floats are written in full (`2.5e-12`), so that what runs is the point. A negative number is
        written so that it stays one value: ngspice reads `--1.5*2` otherwise than it is meant, and
        `-1.5^2` as `-(1.5^2)`.
        """
        values = {name.encode(): value for name, value in point.items()}
        return {
            path: _filled(content, values) if path in self.templates else content
            for path, content in self.files.items()
            if path != DECK_FILE
        }

    def arguments(self, point: Point) -> list[str]:
        """The arguments of the deck's command at a point."""
        values = {name.encode(): value for name, value in point.items()}
        assert self.command is not None
        return [_filled(text.encode(), values).decode() for text in self.command.arguments]

    def to_archive(self) -> bytes:
        """The deck as a zip file; the same deck gives the same bytes."""
        files = dict(self.files)
        if DECK_FILE not in files:
            files[DECK_FILE] = yaml.safe_dump(self.to_dict(), sort_keys=False).encode()
        return write_archive(files)


def _filled(content: bytes, values: Mapping[bytes, float | int | str]) -> bytes:
    return SIGNED.sub(lambda match: _inserted(match, values[match[2]]), content)


def _is_negative(value: float | int | str | None) -> bool:
    return isinstance(value, int | float) and value < 0


def _inserted(match: re.Match[bytes], value: float | int | str) -> bytes:
    """What takes the place of a placeholder and of the minus sign before it."""
    sign, content = match[1], match.string
    if isinstance(value, str) or value >= 0:
        return sign + _written(value)
    if _POWER.match(content, match.end()):
        return sign + b"(" + _written(value) + b")"
    if not sign:
        return _written(value)
    # The value's own sign and that before it are folded: to `+` after an operand, else to none.
    before = content[max(0, match.start() - 80) : match.start()]
    return (b"+" if _OPERAND_ENDS.search(before) else b"") + _written(-value)


def _written(value: float | int | str) -> bytes:
    return (value if isinstance(value, str) else repr(value)).encode()
