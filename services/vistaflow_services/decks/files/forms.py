"""What a deck.yaml may hold: each key with its form and limits.

`fields` checks a file by these forms, and `schema` writes them as a JSON Schema for editors: a
limit that changes here changes in both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from vistaflow_services.decks.definition import OUTPUT, SIMULATORS, Lookup, Policy
from vistaflow_services.decks.parameter import LOWER_NAME, MAX_CHOICES, NAME, Kind, Scale
from vistaflow_services.decks.space import MAX_PARAMETERS

MAX_RESPONSES: Final = 100
MAX_CONSTRAINTS: Final = 100
MAX_TIMEOUT: Final = 7 * 86400.0
"""Longest time of one run, in seconds."""

MAX_POINTS_PER_PROCESS: Final = 64

SOURCES: Final = {
    "devsim": "entry",
    "ngspice": "template",
    "function": "function",
    "python": "entry",
    "command": "command",
    "grpc": "server",
    "table": "table",
}
"""The key that says what each simulator runs."""

OTHER_SOURCES: Final = {
    "devsim": ("template",),
    "ngspice": ("testbenches", "extract"),
    "python": ("template",),
    "command": ("template", "extract"),
}
"""The further keys that some simulators have."""

SOURCE_KEYS: Final = tuple(
    dict.fromkeys((*SOURCES.values(), *(key for keys in OTHER_SOURCES.values() for key in keys)))
)

FLAG_TYPE: Final = "boolean"
"""The type of a parameter that is false or true: an ordinal one of 0 and 1."""

RANGED: Final = (Kind.REAL, Kind.INTEGER)
"""The types of parameters that have a range; the others have choices."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """The form of one value."""

    about: str
    """What the value is, for people."""


@dataclass(frozen=True, kw_only=True)
class TextForm(Form):
    """A text of printable characters and line ends, read as it is written: `1.10` stays so."""

    longest: int = 64
    """Most characters, with the spaces about it, which are dropped."""
    pattern: str = ""
    """A regular expression that the whole text matches without the spaces about it."""


@dataclass(frozen=True, kw_only=True)
class NameForm(TextForm):
    """A name for formulas: an identifier that is no word of the formula language."""

    pattern: str = NAME.pattern


@dataclass(frozen=True, kw_only=True)
class LowerNameForm(NameForm):
    """The same in lower case."""

    pattern: str = LOWER_NAME.pattern


@dataclass(frozen=True, kw_only=True)
class TextsForm(Form):
    """A list of texts."""

    most: int = 200
    longest: int = 1000


@dataclass(frozen=True, kw_only=True)
class WordForm(Form):
    """One of some words."""

    words: tuple[str, ...]
    fallback: str = ""
    """What an empty value means; it is a mistake if there is none."""


@dataclass(frozen=True, kw_only=True)
class RangeForm(Form):
    """`[low, high]`, low below high."""

    open_ended: bool = False
    """Whether null leaves an end open."""


@dataclass(frozen=True, kw_only=True)
class ChoicesForm(Form):
    """A list of different values, all texts or all numbers."""

    most: int


@dataclass(frozen=True, kw_only=True)
class ValueForm(Form):
    """One value of a parameter."""


@dataclass(frozen=True, kw_only=True)
class NumberForm(Form):
    """A number within bounds, both inclusive."""

    low: float
    high: float
    fallback: float = 0.0
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class QuantityForm(Form):
    """A number, or a text with a number and a unit such as `5 min`."""

    low: float
    high: float
    """Inclusive, as `low` unless `above`."""
    above: bool = False
    """Whether the number lies above `low`."""
    fallback: float
    units: Mapping[str, float]
    """What each unit is worth."""
    any_case: bool = False
    """Whether units may be written in lower case, too; `units` has them in capitals."""
    advice: str
    """What to write instead of a wrong value."""


@dataclass(frozen=True, kw_only=True)
class FlagForm(Form):
    """true or false."""


@dataclass(frozen=True, kw_only=True)
class FormulasForm(Form):
    """A list of constraints, each a text."""

    most: int


@dataclass(frozen=True, kw_only=True)
class FilesForm(Form):
    """The path of a file of the deck, or a list of paths."""


@dataclass(frozen=True, kw_only=True)
class AmountsForm(Form):
    """A finite number for each response, by name."""


@dataclass(frozen=True, kw_only=True)
class TableForm(Form):
    """A mapping with some keys and no others."""

    keys: Mapping[str, Form]
    required: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EntriesForm(Form):
    """A list of one or more mappings of one form."""

    entry: TableForm
    most: int


MEASURE: Final = r"[A-Za-z_][A-Za-z0-9_.]*"
"""What a simulator may call a response."""

AMOUNT: Final = NumberForm(about="A finite number.", low=-math.inf, high=math.inf)
"""What stands for a response of a failed run."""

PARAMETER: Final = TableForm(
    about="A parameter: what may be varied.",
    keys={
        "name": NameForm(about="What formulas, designs and results call it."),
        "type": WordForm(
            about="real and integer have a range; categorical and ordinal have choices; boolean is "
            "0 or 1.",
            words=(*Kind, FLAG_TYPE),
            fallback=Kind.REAL,
        ),
        "range": RangeForm(about="Smallest and largest value, both inclusive, in the unit."),
        "choices": ChoicesForm(
            about="The values of a categorical or ordinal parameter.", most=MAX_CHOICES
        ),
        "step": NumberForm(
            about="Only every such value of the range is possible.", low=1e-300, high=1e300
        ),
        "title": TextForm(about="What people call it, in any script.", longest=100),
        "unit": TextForm(about="The unit of its values, such as nm.", longest=32),
        "scale": WordForm(
            about="How a range is sampled: log for one that spans decades.",
            words=tuple(Scale),
            fallback=Scale.LINEAR,
        ),
        "default": ValueForm(about="A value within the range; the middle if left out."),
        "description": TextForm(about="What it is, for people.", longest=2000),
    },
    required=("name",),
)

RESPONSE: Final = TableForm(
    about="A response: what a run returns.",
    keys={
        "name": NameForm(about="What formulas, models and results call it."),
        "unit": TextForm(about="The unit of its values, such as A.", longest=32),
        "description": TextForm(about="What it is, for people.", longest=2000),
        "measure": TextForm(
            about="What the simulator calls it, if not by the name.",
            pattern=MEASURE,
        ),
        "title": TextForm(about="What people call it, in any script.", longest=100),
        "pattern": TextForm(
            about="command: a regular expression; its first group is the value.", longest=300
        ),
        "fallback": NumberForm(
            about="The value where the run went well and there is none, such as a measure without "
            "a result.",
            low=-math.inf,
            high=math.inf,
        ),
        "range": RangeForm(
            about="What is physical: a run with a value outside has failed. null for an open end.",
            open_ended=True,
        ),
    },
    required=("name",),
)

FAILURE: Final = TableForm(
    about="What is done about failed runs.",
    keys={
        "policy": WordForm(
            about="continue keeps a failed run as data, retry runs it again, substitute puts "
            "values in its place, abort fails the job.",
            words=tuple(Policy),
            fallback=Policy.CONTINUE,
        ),
        "retries": NumberForm(
            about="Further runs of a failed point; 1 of the policy retry if left out.",
            low=0,
            high=10,
            whole=True,
        ),
        "max_failed_fraction": NumberForm(
            about="Part of the runs beyond which failures fail the job.",
            low=0,
            high=1,
            fallback=0.5,
        ),
        "substitute": AmountsForm(about="Of the policy substitute: a value for each response."),
    },
)

COMMAND: Final = TableForm(
    about="command: a program that the operator has registered, and its results.",
    keys={
        "program": TextForm(
            about="The name that it is registered by.", pattern=NAME.pattern, longest=63
        ),
        "arguments": TextsForm(about="What it is called with; placeholders @name@ are filled."),
        "results": TextForm(
            about=f"The file that it writes, .json or .csv; {OUTPUT}, which it prints, if left "
            "out.",
            longest=200,
        ),
        "license": TextForm(
            about="A regular expression of its output where there is no licence.", longest=300
        ),
        "no_convergence": TextForm(
            about="A regular expression of its output where it does not converge.", longest=300
        ),
    },
    required=("program",),
)

TABLE: Final = TableForm(
    about="table: measured points, a column for each parameter and response.",
    keys={
        "file": TextForm(about="A .csv or .parquet file of the deck.", longest=200),
        "lookup": WordForm(
            about="exact: by a row with the same values; nearest: by the nearest one.",
            words=tuple(Lookup),
            fallback=Lookup.EXACT,
        ),
        "within": NumberForm(
            about="Of nearest: how far the row may be, as a part of each range; 0.05 if left out.",
            low=0,
            high=1,
            fallback=0.05,
        ),
    },
    required=("file",),
)

DECK: Final = TableForm(
    about="A vistaflow deck: what may be varied, what comes back, and what computes it.",
    keys={
        "name": LowerNameForm(about="What kits call the deck."),
        "version": TextForm(about="Changes with the deck; 1 if left out.", longest=40),
        "description": TextForm(about="What the deck is, for people.", longest=8000),
        "simulator": WordForm(about="What computes a point.", words=SIMULATORS),
        "template": FilesForm(
            about="ngspice: the netlist with its placeholders @name@; more files as a list. Of "
            "other simulators: files with placeholders."
        ),
        "testbenches": FilesForm(
            about="ngspice: the netlists that are run one after the other for a point, if not the "
            "first template alone."
        ),
        "extract": TextForm(
            about="ngspice, command: a Python function that reads what the run has written, such "
            "as results.py:read.",
            pattern=r"[^:]*\.py:[^:]+",
        ),
        "command": COMMAND,
        "server": TextForm(
            about="grpc: the name that the operator has registered the server by.",
            pattern=NAME.pattern,
        ),
        "table": TABLE,
        "entry": TextForm(
            about="devsim, python: the function that is called, such as deck.py:evaluate.",
            pattern=r"[^:]*\.py:[^:]+",
        ),
        "function": TextForm(
            about="function: the name of a shipped one.", pattern=LOWER_NAME.pattern
        ),
        "parameters": EntriesForm(
            about="What may be varied.", entry=PARAMETER, most=MAX_PARAMETERS
        ),
        "responses": EntriesForm(about="What comes back.", entry=RESPONSE, most=MAX_RESPONSES),
        "constraints": FormulasForm(
            about="Between numeric parameters, such as `w1 <= 2 * w3`.", most=MAX_CONSTRAINTS
        ),
        "failure": FAILURE,
        "timeout": QuantityForm(
            about="Longest time of one run: seconds, or such as 5 min; 300 s if left out.",
            low=0.0,
            high=MAX_TIMEOUT,
            above=True,
            fallback=300.0,
            units={"s": 1.0, "min": 60.0, "h": 3600.0},
            advice=f"give seconds, above 0 and at most {MAX_TIMEOUT:.0f}, or `5 min`",
        ),
        "memory_limit": QuantityForm(
            about="Most memory of one run: bytes, or such as 512 MiB; 2 GiB if left out.",
            low=16 * 2**20,
            high=2**40,
            fallback=2 * 2**30,
            units={
                "B": 1,
                **{"KB": 10**3, "MB": 10**6, "GB": 10**9},
                **{"KIB": 2**10, "MIB": 2**20, "GIB": 2**30},
            },
            any_case=True,
            advice="give `512 MiB` or a number of bytes, 16 MiB to 1024 GiB",
        ),
        "noisy": FlagForm(
            about="Whether two runs of one point may differ; false if left out.",
        ),
        "keep_files": FlagForm(
            about="Whether the files that its runs write are stored; false if left out.",
        ),
        "points_per_process": NumberForm(
            about="ngspice: points that are run one after the other in one process; 1 if left out.",
            low=1,
            high=MAX_POINTS_PER_PROCESS,
            fallback=1,
            whole=True,
        ),
    },
    required=("name", "simulator", "parameters", "responses"),
)
