"""What comes of running one point, and the gate every result passes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from vistaflow_services.decks.deck import Response
from vistaflow_services.decks.space import Point

MAX_MESSAGE: Final = 2000
"""Longest message, in characters; of a longer one the end is kept."""

_PATH = re.compile(r"(?<![\w.:/])(?:/[\w.+@~-]+){2,}/?")
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
        }

    @staticmethod
    def from_dict(told: Mapping[str, Any], *, cached: bool = True) -> Outcome:
        """The outcome that `to_dict` told."""
        return Outcome(
            point=dict(told["point"]),
            responses={name: float(value) for name, value in told["responses"].items()},
            failure=None if told["failure"] is None else Failure(told["failure"]),
            message=str(told["message"]),
            seconds=float(told["seconds"]),
            cached=cached,
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
    found: dict[str, float] = {}
    for each in responses:
        given = values.get(each.extract)
        if given is None:
            told = ", ".join(sorted(map(str, values))[:20]) or "nothing"
            message = f"the simulator returned no `{each.extract}`; it returned {told}"
            return failed(point, Failure.CRASHED, message, seconds)
        try:
            value = float(given)
        except (TypeError, ValueError, OverflowError):
            message = f"response `{each.name}` is {str(given)[:80]!r}, not a number"
            return failed(point, Failure.CRASHED, message, seconds)
        if not math.isfinite(value):
            message = f"response `{each.name}` is {value}"
            return failed(point, Failure.NO_CONVERGENCE, message, seconds)
        if not each.accepts(value):
            low = "-inf" if each.low is None else f"{each.low:g}"
            high = "inf" if each.high is None else f"{each.high:g}"
            message = (
                f"response `{each.name}` is {value:g} {each.unit}".rstrip()
                + f", outside its physical range {low} to {high}"
            )
            return failed(point, Failure.INFEASIBLE, message, seconds)
        found[each.name] = value
    return Outcome(point=point, responses=found, seconds=seconds)


def clipped(text: str) -> str:
    """What may be shown of a simulator's words: printable, without host paths, and not too long."""
    plain = _CONTROL.sub("?", text).strip()
    plain = _PATH.sub(lambda match: ".../" + match.group().rstrip("/").rpartition("/")[2], plain)
    return plain if len(plain) <= MAX_MESSAGE else "... " + plain[-(MAX_MESSAGE - 4) :]
