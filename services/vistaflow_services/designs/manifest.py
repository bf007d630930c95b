"""What a DOE job publishes of its design: the job writes it, later jobs and the service read it.

A result holds the keys of all three dataclasses here. Each reader needs one or two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vistaflow_services.core.results import FILES, ONE_FILE, Manifest, PublishedFile
from vistaflow_services.decks.space import Choice, Space
from vistaflow_services.designs.recipe import Region


@dataclass(frozen=True, kw_only=True)
class DesignManifest(Manifest):
    """A design: its rows, the region that they lie in, and the deck that they are for."""

    design: PublishedFile = field(metadata=ONE_FILE)
    """Its `design.parquet`."""
    design_id: str = ""
    """The job that published it."""
    deck_id: str = ""
    deck_name: str = ""
    deck_uri: str = ""
    """The deck's archive."""
    space: Mapping[str, Any]
    """As `Space.to_dict` writes it."""
    fixed: Mapping[str, Choice] = field(default_factory=dict)
    """Values of the parameters that were held."""
    responses: Sequence[Mapping[str, str]]
    """The `name` and `unit` of each response of the deck."""
    evaluated_count: int = 0
    """Points that were run; 0 if the design is only made."""

    @cached_property
    def region(self) -> Region:
        """Where the design lies."""
        return Region(space=Space.from_dict(self.space), fixed=self.fixed)

    @property
    def units(self) -> dict[str, str]:
        """The unit of each response, by name."""
        return {response["name"]: response.get("unit", "") for response in self.responses}


@dataclass(frozen=True, kw_only=True)
class DesignOrigin(Manifest):
    """How a design was made, and how good it is."""

    generator: str
    version: str
    """Of the generator."""
    seed: int
    size: int
    """Its points."""
    feasible_count: int = 0
    candidate_count: int = 0
    """Points looked at for the constraints."""
    dropped_count: int = 0
    """Of those, the infeasible ones."""
    quality: Mapping[str, Any]
    """As `Quality.to_dict` writes it, with the `file` that holds all of it."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Size, levels and whether the default point was added, as requested."""
    parent_design_id: str | None = None
    """The design whose points were run, if another job made them."""


@dataclass(frozen=True, kw_only=True)
class DesignRuns(Manifest):
    """How many runs failed or were run before, and the pictures of the design and its runs."""

    failed_count: int
    cached_count: int
    """Points that had been run before."""
    substituted_count: int = 0
    """Failed runs that the deck's policy gave values to."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failed runs by kind."""
    reasons: Sequence[Mapping[str, Any]] = ()
    """Why runs failed, the most common reason first: failure, message, count, row_id."""
    origins: Sequence[Mapping[str, Any]] = ()
    """Rows taken from elsewhere: origin, count, failed_count, outside_count."""
    plots: tuple[PublishedFile, ...] = field(metadata=FILES)
