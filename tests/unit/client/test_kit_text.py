"""The kit.yaml of a kit that has run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vistaflow.api.registry.v1 import registry_pb2
from vistaflow.cli.files.kit_text import kit_text
from vistaflow.errors import FailedPreconditionError
from vistaflow.models import kit_of
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.pipeline.kitfile import read_kit
from vistaflow_services.pipeline.translate import spec_record, with_defaults

KIT = """\
name: "on: 12:30"
deck: mosfet
seed: 9007199254740993
labels: {team: power, "1": "no"}
design:
  generator: lhs_ese
  size: 40
  parameters:
    gate_length: [80, 200.5]
    oxide_thickness: 2
    junction_depth: {low: 20}
    kind: {choices: [a, "1", 2]}
  constraints: [gate_length >= 3 * junction_depth]
  include_default: true
evaluation: {failure_policy: retry, max_failed_fraction: 0}
goals: |
  maximize ion
  ioff <= 1e-9
ml: {families: [gaussian_process, extra_trees], test_fraction: 0, log_responses: none}
optimize: {budget: 20, tolerance: 1e-3}
stop_after: ml_test
notify: [{webhook: team, events: [FINISHED]}]
"""


def test_it_reads_back_as_the_spec_that_ran(tmp_path: Path) -> None:
    deck = DeckLibrary(tmp_path).find("mosfet").deck
    spec, mistakes = read_kit(KIT)
    assert mistakes == []
    full = with_defaults(spec, deck)
    kit = kit_of(registry_pb2.Kit(kit_id=7, name=full.name, spec=spec_record(full, deck)))

    text = kit_text(kit)
    again, mistakes = read_kit(text)

    assert mistakes == []
    assert again == full
    assert f"deck: {deck.digest}  # mosfet 1\n" in text
    assert "goals: |\n  maximize ion\n" in text


def test_a_data_kit_keeps_its_jobs_and_a_kit_without_a_file_has_none() -> None:
    kit = registry_pb2.Kit(kit_id=7, name="flow", project="default", labels={"owner": "ana"})
    with pytest.raises(FailedPreconditionError, match="was not started from a kit file"):
        kit_text(kit_of(kit))

    jobs = {"get": {"query": {"sql": "select 1\n-- all"}}}
    kit.spec.update({"jobs": jobs})

    root = yaml.safe_load(kit_text(kit_of(kit)))

    assert root == {
        "name": "flow",
        "project": "default",
        "labels": {"owner": "ana"},
        "jobs": jobs,
    }
