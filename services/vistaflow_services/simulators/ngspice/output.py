"""What a run of ngspice printed, read line by line: of any amount, little is held.

Standard output and standard error are files of their own, and ngspice buffers the first: how their
lines interleaved is not known. What is known is the order within each of them.

| printed                                     | where  | means                                   |
|---------------------------------------------|--------|-----------------------------------------|
| `name = 1.5e-3 ...`                         | output | a figure                                |
| ` meas ac name ... failed!`                 | output | `meas` in a control block failed        |
| ` .meas tran name ... failed!`              | errors | `.meas` failed                          |
| `Error: measure  name  when(WHEN) : ...`    | errors | why, for both                           |
| `tran simulation(s) aborted`                | errors | the analysis has half its points        |
| `no data saved for ...; analysis not run`   | errors | the next `aborted` is of this one alone |
| `tran simulation interrupted`               | errors | the deck's own `stop`: no failure       |
| `singular matrix`, `gmin stepping failed`   | errors | a warning: another method is tried next |
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Final

MAX_LINE: Final = 4096
"""Characters of a line that are looked at together."""

MAX_OTHERS: Final = 20
"""Figures beside those that the deck asks for that are remembered, for messages."""

FAILED: Final = "failed"
"""The value of a measure that failed."""

_VALUE: Final = re.compile(r"^\s{0,4}([A-Za-z_][\w.#()]*)\s*=(\s*)(\S+)(.*)")
_MEASURED: Final = "  "
"""How the space between `=` and the figure of a measure begins; `print` leaves one blank."""
_NUMBER: Final = re.compile(r"[+-]?(\d|\.\d|nan|inf)", re.IGNORECASE)
_COMPLEX: Final = re.compile(r"[^,\s]+,\s*[^,\s]+")
# ngspice ends a batch run with `Stack = 0 bytes.`
_RESOURCE: Final = re.compile(r"\s*(bytes\.|MB\.|kB\.)", re.IGNORECASE)
_FAILED: Final = re.compile(
    r"^\s*(?:\.?meas(?:ure)?\s+\w+\s+(\S+)\b.*\bfailed!|measure '([^']+)'\s+failed)", re.IGNORECASE
)
_REASON: Final = re.compile(r"^\s*Error: measure\s+(\S+)\s+(?:failed)?(.*)", re.IGNORECASE)
_UNPRINTED: Final = re.compile(r"checkvalid: vector (\S+) is not available", re.IGNORECASE)

_ABORTED: Final = re.compile(
    r"simulation\(?s?\)? aborted|(?:pss|pole-zero) analysis (?:aborted|interrupted)", re.IGNORECASE
)
_UNSAVED: Final = re.compile(r"no data saved for .*analysis not run", re.IGNORECASE)
_FATAL: Final = re.compile(
    r"interrupted due to error|\bfatal\b|solution failed|operating point failed|analysis not run"
    r"|LU decomposition failed|circuit not parsed|no circuits? loaded|aren't any circuits"
    r"|error on line|unknown subckt|undefined parameter|no such device or model"
    r"|command '\w+' skipped|load aborted|too many iteration passes",
    re.IGNORECASE,
)
"""Evidence that the output does not describe the whole circuit of the deck."""

_DIVERGED: Final = re.compile(
    r"time ?step too small|no convergence|convergence problem|iteration limit|singular matrix"
    r"|solution failed|op failed|too many iteration passes|converge",
    re.IGNORECASE,
)

_ERROR: Final = re.compile(
    r"error|fatal|netlist line no|warning, can't find|undefined|unknown|no such|not found"
    r"|could not|cannot|can't|invalid|illegal|syntax|too few|too many|aborted|not available"
    r"|doAnalyses",
    re.IGNORECASE,
)
_HARMLESS: Final = re.compile(
    r"^\s*(note|warning|trying|supplies)\b(?!, can't find| from checkvalid)|display type|viewport"
    r"|can't find init file|no such vector .*\bplot\b|fatal error in ngspice, exit",
    re.IGNORECASE,
)
_ERROR_LINES: Final = 5
_INTRODUCES: Final = re.compile(r"(?<=:); |(?<=from line); ")


@dataclass(kw_only=True)
class Printed:
    """Figures, and the evidence for and against them."""

    values: dict[str, str] = field(default_factory=dict)
    """By name in lower case: the last figure, or `FAILED`."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why measures failed."""
    columns: set[str] = field(default_factory=set)
    """Asked for and printed, but as a column of a table."""
    analysed: bool = False
    """Whether any analysis gave data."""
    fatal: str = ""
    """The first evidence that figures are not to be trusted; empty if there is none."""
    diverged: bool = False
    """Whether that is for want of convergence."""
    unsaved: str = ""
    """An analysis that was not run because nothing of it would have been saved."""
    unrun: bool = False
    """Whether ngspice notes that, beside its control block, it ran nothing."""
    error: str = ""
    """ngspice's first error with the lines around it."""


def read_printed(output: Path | bytes, errors: Path | bytes, names: Collection[str]) -> Printed:
    """Reads both streams of a run.

    Args:
        output: The file with its standard output, or that itself.
        errors: Its standard error, likewise.
        names: The figures that are asked for, in lower case.
    """
    printed = Printed()
    failure_counts = _read_output(output, names, printed)
    reader = _Errors(names, printed)
    for line in _lines(errors):
        reader.read(line)
    reader.close(failure_counts)
    return printed


def _read_output(output: Path | bytes, names: Collection[str], printed: Printed) -> Counter[str]:
    """Reads standard output; returns how often each measure failed there."""
    failure_counts: Counter[str] = Counter()
    for line in _lines(output):
        if "=" in line and (match := _VALUE.match(line)):
            name, gap, value, rest = match[1].lower(), match[2], match[3], match[4]
            # Printed again, what a failed measure leaves is the figure of an earlier one.
            if printed.values.get(name) != FAILED or gap.startswith(_MEASURED):
                _read_value(printed, names, name, value, rest)
        elif "failed" in line:
            if match := _FAILED.match(line):
                name = (match[1] or match[2]).lower()
                if name in names:
                    printed.values[name] = FAILED
                    failure_counts[name] += 1
            elif not printed.fatal and _FATAL.search(line):
                printed.fatal, printed.diverged = line.strip(), True
        elif line.startswith("No. of Data Rows"):
            printed.analysed = True
        elif line.startswith("Index"):
            printed.columns.update(part for part in line.lower().split()[1:] if part in names)
    return failure_counts


def _read_value(printed: Printed, names: Collection[str], name: str, value: str, rest: str) -> None:
    if _RESOURCE.match(rest):
        return
    if name in names:
        if value.lower() == FAILED:
            printed.values[name] = FAILED
            return
        # `1.0e+00,-2.0e+00` is a complex number; a comma at the end is the punctuation of an echo.
        whole = value + rest if value.endswith(",") and _NUMBER.match(rest.strip()) else value
        printed.values[name] = whole.rstrip(",")
    elif len(printed.values) < MAX_OTHERS + len(names) and _NUMBER.match(value):
        printed.values[name] = value.rstrip(",")


def is_complex(value: str) -> bool:
    """Whether a figure was printed as two numbers."""
    return _COMPLEX.fullmatch(value) is not None


class _Errors:
    """Standard error, a line at a time."""

    def __init__(self, names: Collection[str], printed: Printed) -> None:
        self._names = names
        self._printed = printed
        self._reason_counts: Counter[str] = Counter()
        self._error: list[str] = []
        self._more_lines = 0
        self._unsaved_count = 0
        self._diverging = False

    def read(self, line: str) -> None:
        """Takes in the next line."""
        text = line.strip()
        self._read_error(text)
        if match := _REASON.match(line):
            self._read_reason(match[1].lower(), match[2].strip(" :"))
        elif match := _FAILED.match(line):
            name = (match[1] or match[2]).lower()
            if name in self._names:
                self._printed.values[name] = FAILED
        elif _says(_UNPRINTED, text) and (match := _UNPRINTED.search(text)):
            self._printed.values.pop(match[1].lower(), None)
        elif "no simulations run" in line:
            self._printed.unrun = True
        elif _says(_UNSAVED, text):
            self._printed.unsaved = text
            self._unsaved_count += 1
        else:
            self._read_evidence(text)

    def close(self, failure_counts: Mapping[str, int]) -> None:
        """Draws the conclusions.

        Args:
            failure_counts: How often measures failed by standard output, where the order of
                figures and failures is known; one that failed beyond that has no figure.
        """
        for name, count in self._reason_counts.items():
            if count > failure_counts.get(name, 0):
                self._printed.values[name] = FAILED
        self._printed.error = self._printed.error or _INTRODUCES.sub(" ", "; ".join(self._error))

    def _read_reason(self, name: str, reason: str) -> None:
        if name in self._names:
            self._printed.reasons[name] = reason
            self._reason_counts[name] += 1

    def _read_evidence(self, text: str) -> None:
        printed = self._printed
        if text.startswith("doAnalyses:"):
            self._diverging = _DIVERGED.search(text) is not None
        elif _says(_ABORTED, text):
            if self._unsaved_count:
                self._unsaved_count -= 1
            elif not printed.fatal:
                printed.fatal, printed.diverged = text, self._diverging
        elif not printed.fatal and _says(_FATAL, text):
            printed.fatal = text

    def _read_error(self, text: str) -> None:
        """Remembers the first error and the lines that belong to it."""
        if self._more_lines:
            self._more_lines = self._more_lines - 1 if text else 0
            if text and text not in self._error:
                self._error.append(text)
        elif not self._error and _says(_ERROR, text) and not _says(_HARMLESS, text):
            self._error.append(text)
            self._more_lines = _ERROR_LINES - 1


@lru_cache(maxsize=1024)
def _says(pattern: re.Pattern[str], text: str) -> bool:
    """Whether a pattern is in a line; most lines are the same at every point of a deck."""
    return pattern.search(text) is not None


def _lines(source: Path | bytes) -> Iterator[str]:
    """The lines of a stream, also those that a carriage return ends; long ones in pieces."""
    data = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with io.TextIOWrapper(data, encoding="utf-8", errors="replace") as file:
        prefix = ""
        while piece := file.readline(MAX_LINE):
            yield prefix + piece
            # The rest of a long line must not be taken for the beginning of a line.
            prefix = "" if piece.endswith("\n") else "…"
