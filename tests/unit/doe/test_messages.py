from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from vistaflow.api.doe.v1 import doe_pb2 as pb
from vistaflow_services.designs.recipe import Generator
from vistaflow_services.doe.messages import design_message, generator_infos, row_messages

MANIFEST: dict[str, Any] = {
    "design": {"uri": "artifact://jobs/j/1/design.parquet", "bytes": 10, "sha256": "ab"},
    "design_id": "j",
    "deck_id": "d",
    "deck_uri": "artifact://decks/d.zip",
    "space": {
        "parameters": [
            {"name": "tox", "type": "real", "range": [1e-9, 1e-8], "scale": "log", "unit": "m"},
            {"name": "n", "type": "integer", "range": [1, 8], "scale": "linear", "default": 2},
            {"name": "gate", "type": "categorical", "choices": ["poly", "metal"]},
            {"name": "width", "type": "ordinal", "choices": [1, 2, 5]},
            {"name": "vdd", "type": "real", "range": [0, 2], "scale": "linear"},
        ],
        "constraints": ["n * width <= 20"],
    },
    "fixed": {"vdd": 1, "gate": "metal"},
    "responses": [{"name": "ion", "unit": "A"}],
    "generator": "lhs_ese",
    "version": "lhs_ese/1",
    "seed": 3,
    "size": 40,
    "evaluated_count": 40,
    "failed_count": 2,
    "cached_count": 1,
    "quality": {"phi_p": 2.0, "distinct_points": 40, "coverage": {"n": {}}, "notes": ["told"]},
    "plots": [{"name": "design.png", "uri": "artifact://p", "bytes": 5, "sha256": "cd"}],
}


def test_a_design_is_told_whole() -> None:
    told = json_format.MessageToDict(design_message("j", MANIFEST))
    assert told == {
        "designId": "j",
        "deckId": "d",
        "parameters": [
            {
                "name": "tox",
                "kind": "PARAMETER_KIND_REAL",
                "low": 1e-9,
                "high": 1e-8,
                "unit": "m",
                "scale": "PARAMETER_SCALE_LOG",
            },
            {
                "name": "n",
                "kind": "PARAMETER_KIND_INTEGER",
                "low": 1.0,
                "high": 8.0,
                "scale": "PARAMETER_SCALE_LINEAR",
                "defaultValue": 2.0,
            },
            {"name": "gate", "kind": "PARAMETER_KIND_CATEGORICAL", "choices": ["metal"]},
            {"name": "width", "kind": "PARAMETER_KIND_ORDINAL", "choices": [1.0, 2.0, 5.0]},
            {
                "name": "vdd",
                "kind": "PARAMETER_KIND_REAL",
                "low": 1.0,
                "high": 1.0,
                "scale": "PARAMETER_SCALE_LINEAR",
            },
        ],
        "responses": [{"name": "ion", "unit": "A"}],
        "constraints": ["n * width <= 20"],
        "generator": "lhs_ese",
        "generatorVersion": "lhs_ese/1",
        "seed": "3",
        "size": 40,
        "evaluatedCount": 40,
        "failedCount": 2,
        "cachedCount": 1,
        "quality": {"phi_p": 2.0, "distinct_points": 40.0},
        "data": {
            "name": "design.parquet",
            "uri": "artifact://jobs/j/1/design.parquet",
            "sizeBytes": "10",
            "sha256": "ab",
        },
        "plots": [{"name": "design.png", "uri": "artifact://p", "sizeBytes": "5", "sha256": "cd"}],
    }


def test_every_generator_is_listed_with_what_it_can_do() -> None:
    listed = {each.name: each for each in generator_infos()}
    assert set(listed) == {str(each) for each in Generator}
    assert {each.generator for each in listed.values()} == set(pb.Generator.values()) - {0}
    assert all(each.description and each.source for each in listed.values())
    assert (listed["lhs_ese"].max_size, listed["sobol"].max_size) == (2000, 1_000_000)
    assert [name for name, each in listed.items() if not each.sized] == ["full_factorial"]


def test_rows_come_in_chunks_of_about_the_size_asked_for() -> None:
    rows = [
        {"row_id": at, "x.tox": 1e-9, "x.gate": "poly", "y.ion": None, "failure": "TIMEOUT"}
        for at in range(500)
    ]
    rows[3] |= {"y.ion": 0.5, "failure": None}
    chunks = list(row_messages(rows, chunk_bytes=2000))
    assert len(chunks) > 5
    assert max(each.ByteSize() for each in chunks) < 2300
    told = [row for each in chunks for row in each.rows]
    assert [each.row_id for each in told] == list(range(500))
    assert json_format.MessageToDict(told[3]) == {
        "rowId": "3",
        "parameters": {"tox": 1e-9, "gate": "poly"},
        "responses": {"ion": 0.5},
    }
    assert (told[4].failure, dict(told[4].responses)) == ("TIMEOUT", {})
