"""One command of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Step:
    """A command with all of its environment; the steps of a run share its folder and limits."""

    argv: Sequence[str]
    environment: Mapping[str, str]
    decisive: bool = False
    """Whether the run ends here if its exit status is not 0."""
