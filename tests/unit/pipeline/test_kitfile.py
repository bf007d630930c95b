"""kit.yaml: what it becomes, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from vistaflow.api.common.v1 import common_pb2
from vistaflow.api.doe.v1 import doe_pb2
from vistaflow.api.ml.v1 import ml_pb2
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.core.registry_client import RegistryClient
from vistaflow_services.decks.library import DeckLibrary
from vistaflow_services.pipeline.kitfile import deck_beside, document_of, read_kit
from vistaflow_services.pipeline.reading import Reading, Source
from vistaflow_services.pipeline.reuse import Reuse

KIT = """\
name: a kit
deck: mosfet
seed: 3
labels: {team: power}
design:
  generator: lhs_ese
  size: 40
  parameters:
    gate_length: [30, 80]
    oxide_thickness: 2.5
    kind: {choices: [a, b]}
goals: |
  maximize ion
  ioff <= 1e-9
ml: {families: [gaussian_process], test_fraction: 0.25}
optimize: {budget: 20}
stop_after: ml_test
"""


def test_a_file_becomes_the_spec_it_says() -> None:
    spec, mistakes = read_kit(KIT)

    assert mistakes == []

    assert (spec.name, spec.deck.name, spec.seed) == ("a kit", "mosfet", 3)
    assert dict(spec.labels) == {"team": "power"}
    assert spec.design.generator == doe_pb2.GENERATOR_LHS_ESE
    assert [
        (each.name, each.low, each.high, each.fixed.number_value, len(each.choices))
        for each in spec.design.parameters
    ] == [
        ("gate_length", 30, 80, 0, 0),
        ("oxide_thickness", 0, 0, 2.5, 0),
        ("kind", 0, 0, 0, 2),
    ]
    assert spec.goals == "maximize ion\nioff <= 1e-9\n"
    assert list(spec.ml.families) == [ml_pb2.FAMILY_GAUSSIAN_PROCESS]
    assert spec.ml.test_fraction == 0.25
    assert spec.stop_after == common_pb2.JOB_TYPE_ML_TEST


def test_what_is_no_yaml_is_refused() -> None:
    with pytest.raises(InvalidError, match="is not YAML"):
        read_kit("deck: [")


def test_goals_may_be_a_list() -> None:
    spec, _ = read_kit("name: k\ndeck: d\ngoals: [minimize a, b <= 1]")

    assert spec.goals == "minimize a\nb <= 1"


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("name: k\ndeck: d\nsize: 3", "kit.yaml:3 size", "unknown key"),
        ("name: k\ndeck: d\ndesign:\n  siz: 3", "kit.yaml:4 design.siz", "did you mean `size`"),
        ("name: k\ndeck: d\ndesign: {size: many}", "kit.yaml:3 design.size", "no whole number"),
        ("name: k\ndeck: d\ndesign: {size: 2.5}", "kit.yaml:3 design.size", "no whole number"),
        (
            "name: k\ndeck: d\ndesign: {generator: lhs_es}",
            "kit.yaml:3 design.generator",
            "did you mean `lhs_ese`",
        ),
        ("name: k\ndeck: d\ndesign: 3", "kit.yaml:3 design", "give a mapping of generator"),
        (
            "name: k\ndeck: d\ndesign: {parameters: {a: [1, 2, 3]}}",
            "kit.yaml:3 design.parameters.a",
            "give [low, high]",
        ),
        ("name: k\ndeck: ./mine", "kit.yaml:2 deck", "lies beside the file"),
        ("name: k", "deck", "say which deck"),
        ("- a", "", "is no mapping"),
        ("name: k\ndeck: d\nml: {families: gp}", "kit.yaml:3 ml.families", "give a list"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_field(text: str, field: str, problem: str) -> None:
    _, (violation,) = read_kit(text)

    assert field in violation.field
    assert problem in violation.description


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("seed: 9007199254740993.0", "seed"),
        ("seed: 1e17", "seed"),
        ("seed: 9223372036854775808", "seed"),
        ("design: {parameters: {a: 9007199254740993}}", "design.parameters.a"),
        ("design: {parameters: {a: [0, 9007199254740993]}}", "design.parameters.a"),
        ("design: {parameters: {a: {high: 9007199254740993}}}", "design.parameters.a.high"),
        ("optimize: {tolerance: 9007199254740993}", "optimize.tolerance"),
    ],
)
def test_a_whole_number_that_would_be_changed_is_a_mistake(text: str, field: str) -> None:
    _, (mistake,) = read_kit(f"deck: mosfet\n{text}")
    assert mistake.field.split()[-1] == field
    assert any(each in mistake.description for each in ("more digits", "no whole number"))


def test_a_seed_of_64_bits_is_read_and_recorded_as_it_was_given() -> None:
    spec, mistakes = read_kit("deck: mosfet\nseed: 9223372036854775807")
    assert (mistakes, spec.seed) == ([], 2**63 - 1)


def test_every_mistake_is_told_at_once() -> None:
    _, mistakes = read_kit("name: [k]\ndeck: 3\ndesign: {size: x, seed: y}\nfoo: 1")

    assert [each.field.split()[-1] for each in mistakes] == [
        "name",
        "deck",
        "design.size",
        "design.seed",
        "foo",
    ]


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("deck: ./mine", "./mine"),
        ("deck: decks/mine", "decks/mine"),
        ("deck: mine.zip", "mine.zip"),
        ("deck: {path: mine}", "mine"),
        ("deck: mosfet", ""),
        ("name: x", ""),
        (": :", ""),
    ],
)
def test_a_deck_beside_the_file_is_found(text: str, path: str) -> None:
    assert deck_beside(text) == path


def test_a_deck_beside_the_file_is_sent_along() -> None:
    assert read_kit("name: k\ndeck: ./mine", b"zip")[0].deck.archive == b"zip"


def test_settings_replace_values_of_the_file_and_labels_are_added() -> None:
    settings = {
        "design.size": "12",
        "design.parameters.gate_length": "[40, 1e2]",
        "optimize.tolerance": "1e-3",
        "goals": "minimize vth",
    }
    document = document_of(KIT, "k.yaml", settings, {"owner": "ana"})

    spec, mistakes = read_kit(KIT, document=document)

    assert mistakes == []
    assert (spec.design.size, spec.optimize.tolerance, spec.optimize.budget) == (12, 1e-3, 20)
    assert (spec.design.parameters[0].low, spec.design.parameters[0].high) == (40, 100)
    assert spec.goals == "minimize vth"
    assert dict(spec.labels) == {"team": "power", "owner": "ana"}


def test_a_mistake_in_a_setting_is_no_mistake_of_its_line() -> None:
    document = document_of(KIT, "k.yaml", {"seed": "x", "design.sise": "4"})

    _, mistakes = read_kit(KIT, document=document)

    assert [mistake.field for mistake in mistakes] == ["k.yaml: seed", "k.yaml:5 design.sise"]


@pytest.mark.parametrize(
    ("path", "value"), [("seed.a", "1"), ("", "1"), ("design..size", "1"), ("seed", "[")]
)
def test_a_setting_that_cannot_be_applied_is_named(path: str, value: str) -> None:
    with pytest.raises(InvalidError) as error:
        document_of(KIT, "k.yaml", {path: value})

    assert error.value.violations[0].field.startswith(f"settings.{path}")


@pytest.mark.parametrize("value", ["abc", "{fixed: null}", "{fixed: [1]}"])
async def test_a_fixed_value_that_a_parameter_cannot_have_is_a_mistake(
    value: str, tmp_path: Path
) -> None:
    text = (
        f"name: a\ndeck: welded_beam\ngoals: minimize cost\ndesign: {{parameters: {{t: {value}}}}}"
    )
    registry = RegistryClient("127.0.0.1:9")
    reading = Reading(DeckLibrary(tmp_path), [], Reuse(registry))
    read = await reading.read(Source(kit_yaml=text))
    await registry.close()

    (mistake,) = read.mistakes
    assert mistake.field.startswith("kit.yaml:4 design.parameters.t")
