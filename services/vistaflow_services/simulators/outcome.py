"""What comes of running one point, and the gate every result passes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

from vistaflow_services.decks.deck import Response
from vistaflow_services.decks.space import Point

MAX_LOG: Final = 8 * 1024
"""How much of the end of what a run printed is stored, in characters."""

MAX_MESSAGE: Final = 2000
"""Longest message, in characters; of a longer one the end is kept."""

_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+@~-]+){2,}/?")
_DIGITS = re.compile(r"[-+]?\d[\d.]*(?:[eE][-+]?\d+)?")
_ENDED = re.compile(r"exit status|it was ended|it ended without|Traceback")
_CONTROL = re.compile(r"[^\n\t\x20-\x7e\u00a0-\ud7ff]")


class Failure(StrEnum):
    """Why a run gave no responses."""

    CRASHED = "CRASHED"
    """The simulator ended by itself with an error, or broke a limit other than time."""
    NO_CONVERGENCE = "NO_CONVERGENCE"
    """The simulator gave up on its equations, or returned something that is not finite."""
    TIMEOUT = "TIMEOUT"
    """The wall clock or the processor time ran out."""
    INFEASIBLE = "INFEASIBLE"
    """No such device: a constraint is broken, or a response does not exist or is unphysical."""
    LICENSE = "LICENSE"
    """The simulator could not get a licence."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One point with its responses, or with the reason why there are none."""

    point: Point
    responses: dict[str, float] = field(default_factory=dict)
    """A value for each of the deck's responses in its unit; empty if the run failed."""
    failure: Failure | None = None
    message: str = ""
    """What the simulator said about the failure, clipped, without paths of this machine."""
    seconds: float = 0.0
    """Wall-clock time of the run that made it, also when it came from the store."""
    cached: bool = False
    """Whether nothing was run: it was in the store, or twice in one call."""
    substituted: bool = False
    """Whether the run failed and the deck's policy put its responses in place."""
    log: str = ""
    """The end of what the run printed, at most `MAX_LOG`, without paths of this machine; left out
    where many outcomes are read and this one has responses."""

    @property
    def ok(self) -> bool:
        """Whether there are responses."""
        return self.failure is None

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON-able values, as it is stored."""
        return {
            "point": self.point,
            "responses": self.responses,
            "failure": None if self.failure is None else str(self.failure),
            "message": self.message,
            "seconds": self.seconds,
            **({"log": self.log} if self.log else {}),
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any], *, cached: bool = True) -> Outcome:
        """The outcome of which `to_dict` returned the fields."""
        return Outcome(
            point=dict(record["point"]),
            responses={name: float(value) for name, value in record["responses"].items()},
            failure=None if record["failure"] is None else Failure(record["failure"]),
            message=str(record["message"]),
            seconds=float(record["seconds"]),
            cached=cached,
            log=str(record.get("log", "")),
        )


def failed(point: Point, failure: Failure, message: str, seconds: float = 0.0) -> Outcome:
    """The outcome of a run that gave nothing."""
    return Outcome(point=point, failure=failure, message=clipped(message), seconds=seconds)


def gated(
    point: Point, responses: Sequence[Response], values: Mapping[str, Any], seconds: float
) -> Outcome:
    """The outcome of a run that returned `values`, by what the simulator calls them.

    An exit code of 0 proves nothing: every declared response must be there, finite and inside its
    physical range.
    """
    accepted: dict[str, float] = {}
    for response in responses:
        returned = values.get(response.extract)
        if returned is None and response.extract in values and response.fallback is not None:
            accepted[response.name] = response.fallback
            continue
        if returned is None:
            if response.extract in values:
                message = f"the simulator found no value of `{response.extract}` at this point"
                return failed(point, Failure.INFEASIBLE, message, seconds)
            names = ", ".join(sorted(map(str, values))[:20]) or "nothing"
            message = f"the simulator returned no `{response.extract}`; it returned {names}"
            return failed(point, Failure.CRASHED, message, seconds)
        try:
            value = float(returned)
        except (TypeError, ValueError, OverflowError):
            message = f"response `{response.name}` is {str(returned)[:80]!r}, not a number"
            return failed(point, Failure.CRASHED, message, seconds)
        if not math.isfinite(value):
            message = f"response `{response.name}` is {value}"
            return failed(point, Failure.NO_CONVERGENCE, message, seconds)
        if not response.accepts(value):
            low = "-inf" if response.low is None else f"{response.low:g}"
            high = "inf" if response.high is None else f"{response.high:g}"
            message = (
                f"response `{response.name}` is {value:g} {response.unit}".rstrip()
                + f", outside its physical range {low} to {high}"
            )
            return failed(point, Failure.INFEASIBLE, message, seconds)
        accepted[response.name] = value
    return Outcome(point=point, responses=accepted, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Reason:
    """Failed runs with the same reason, but for the numbers in it."""

    failure: str
    message: str
    """What was said of the first of them, one line."""
    count: int
    place: int
    """Which of the runs was the first."""


def reasons_of(failures: Sequence[str | None], messages: Sequence[str]) -> list[Reason]:
    """Why runs failed, the most common reason first.

    Args:
        failures: The kind of each run's failure; None where it did not fail.
        messages: What was said of each.
    """
    groups: dict[tuple[str, str], Reason] = {}
    for place, (failure, message) in enumerate(zip(failures, messages, strict=True)):
        if failure is None:
            continue
        lines = [line.strip() for line in message.splitlines() if line.strip()] or [""]
        line = (lines[-1] if _ENDED.match(lines[0]) else lines[0])[:300]
        key = (failure, _DIGITS.sub("#", line))
        known = groups.get(key)
        groups[key] = (
            replace(known, count=known.count + 1)
            if known
            else Reason(failure=failure, message=line, count=1, place=place)
        )
    return sorted(groups.values(), key=lambda reason: -reason.count)


def reasons_text(reasons: Sequence[Reason], most: int = 3) -> str:
    """Such as `23 × NO_CONVERGENCE: timestep too small, 2 × TIMEOUT: no result after 10 s`."""
    parts = [
        f"{reason.count} × {reason.failure}" + (f": {reason.message}" if reason.message else "")
        for reason in reasons[:most]
    ]
    rest = sum(reason.count for reason in reasons[most:])
    return "; ".join([*parts, f"{rest} for other reasons"] if rest else parts)


def clipped(text: str, longest: int = MAX_MESSAGE) -> str:
    """What may be shown of a simulator's words: printable, without host paths, and not too long."""
    plain = _CONTROL.sub("?", text).strip()
    plain = _PATH.sub(lambda match: ".../" + match.group().rstrip("/").rpartition("/")[2], plain)
    return plain if len(plain) <= longest else "... " + plain[-(longest - 4) :]
