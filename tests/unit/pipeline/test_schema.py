"""The schema of kit.yaml refuses what the reader refuses, and accepts what it accepts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor
from jsonschema import Draft7Validator

from vistaflow.api.pipeline.v1 import pipeline_pb2 as pb
from vistaflow_services.decks.files.document import read_document
from vistaflow_services.pipeline.kitfile import read_kit
from vistaflow_services.pipeline.schema import ABOUT, kit_schema

KIT = "name: k\ndeck: mosfet\n"


def mistakes(text: str) -> list[str]:
    _, violations = read_kit(text, b"an archive")
    return [str(violation) for violation in violations]


def schema(text: str) -> list[str]:
    root = read_document(text.encode(), "kit.yaml").root
    return [error.message for error in Draft7Validator(kit_schema()).iter_errors(root)]


def paths(message: Descriptor, path: str = "") -> Iterator[str]:
    for field in message.fields:
        place = f"{path}.{field.name}" if path else field.name
        yield place
        nested = field.message_type
        if nested and not field.is_repeated and place != "deck":
            yield from paths(nested, place)


def test_every_key_is_described() -> None:
    assert set(ABOUT) == set(paths(pb.KitSpec.DESCRIPTOR))


@pytest.mark.parametrize(
    "text",
    [
        KIT,
        "name: 5\ndeck: {name: mosfet}\n",
        "name: k\ndeck: ./mosfet\n",
        "name: k\ndeck: {path: mosfet.zip}\n",
        KIT + "project: p\nlabels: {team: power, line: 3}\nseed: 3.0\nmax_attempts: 2\n",
        KIT
        + "design: {generator: lhs_ese, size: 40, include_default: true, constraints: [a <= b]}",
        KIT + "design: {generator: GENERATOR_SOBOL, size: 40, seed: 4}",
        KIT + "design: {generator: SOBOL, size: }",
        KIT + "design: {generator: full_factorial, levels: 4, parameter_levels: {a: 2}}",
        KIT + "design: {parameters: {a: [1, 2.5], b: 3, c: text, d: {choices: [1, x]}}}",
        KIT + "design: {parameters: {a: {low: 1, high: 2}, b: {low: 3}, c: {fixed: x}}}",
        KIT + "design:\nml:\ngoals:\noptimize:\n",
        KIT + "evaluation: {failure_policy: retry, max_failed_fraction: 0.5}",
        KIT + "ml: {responses: [a], outliers: drop, log_responses: none, folds: 3}",
        KIT
        + "ml: {families: [gaussian_process, extra_trees], log_responses: [a], test_fraction: 0}",
        KIT + "goals: minimize a; b <= 1\n",
        KIT + "goals: [minimize a, b <= 1]\n",
        KIT + "optimize: {budget: 20, batch_size: 2, tolerance: 1e-3}\nstop_after: ml_test\n",
    ],
)
def test_what_the_reader_accepts_has_the_schema(text: str) -> None:
    assert mistakes(text) == []
    assert schema(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "name: k\n",
        "name: [k]\ndeck: d\n",
        "name: k\ndeck: 3\n",
        "name: k\ndeck: {name: a, path: b}\n",
        "name: k\ndeck: {archive: b}\n",
        KIT + "size: 3",
        KIT + "project: {a: b}",
        KIT + "labels: [a]",
        KIT + "labels: {a: [b]}",
        KIT + "seed: many",
        KIT + "seed: 1.5",
        KIT + "seed: true",
        KIT + "max_attempts: 3000000000",
        KIT + "design: 3",
        KIT + "design: {siz: 3}",
        KIT + "design: {size: 2.5}",
        KIT + "design: {generator: lhs_es}",
        KIT + "design: {include_default: 1}",
        KIT + "design: {constraints: a <= b}",
        KIT + "design: {parameter_levels: {a: two}}",
        KIT + "design: {parameters: [a]}",
        KIT + "design: {parameters: {a: [1, 2, 3]}}",
        KIT + "design: {parameters: {a: [1, b]}}",
        KIT + "design: {parameters: {a: true}}",
        KIT + "design: {parameters: {a: }}",
        KIT + "design: {parameters: {a: {low: x}}}",
        KIT + "design: {parameters: {a: {lower: 1}}}",
        KIT + "evaluation: {failure_policy: ignore}",
        KIT + "evaluation: {max_failed_fraction: half}",
        KIT + "ml: {families: [neural]}",
        KIT + "ml: {families: gaussian_process}",
        KIT + "ml: {log_responses: some}",
        KIT + "goals: 3",
        KIT + "goals: [3]",
        KIT + "optimize: {budget: lots}",
        KIT + "optimize: {tolerance: small}",
        KIT + "stop_after: never",
    ],
)
def test_what_the_reader_refuses_has_no_schema(text: str) -> None:
    assert mistakes(text) != []
    assert schema(text) != []
