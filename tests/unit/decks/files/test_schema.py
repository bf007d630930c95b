"""The schema of deck.yaml refuses what the checks refuse, and accepts what they accept."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft7Validator

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import parse_deck
from vistaflow_services.decks.files.document import read_document
from vistaflow_services.decks.files.schema import deck_schema

DECK = """\
name: bowl
simulator: function
function: branin
parameters:
  - {name: x1, range: [-5, 10]}
  - {name: x2, range: [0, 15]}
responses:
  - {name: value}
"""
NETLIST = b"* @x1@ @x2@\n.control\nprint value\n.endc\n"
PYTHON = b"def run(point):\n    return {}\n"


def with_part(part: str, text: str) -> str:
    assert part in DECK
    return DECK.replace(part, text)


def checks(text: str) -> list[str]:
    try:
        parse_deck({"deck.yaml": text.encode(), "a.cir": NETLIST, "a.py": PYTHON})
    except InvalidError as error:
        return [str(violation) for violation in error.violations]
    return []


def schema(text: str) -> list[str]:
    root: Any = read_document(text.encode(), "deck.yaml").root
    return [error.message for error in Draft7Validator(deck_schema()).iter_errors(root)]


@pytest.mark.parametrize(
    "text",
    [
        DECK,
        DECK + "version: 1.10\ndescription: 5\n",
        DECK + "version:\nconstraints:\nfailure:\n",
        DECK + "constraints: [x1 <= 2 * x2]\n",
        DECK + "failure: {policy: retry, retries: 2.0, max_failed_fraction: 1}\n",
        DECK + "failure: {policy: substitute, substitute: {value: -1e3}}\n",
        DECK + "failure: {policy: , substitute: }\n",
        DECK + "failure: {}\n",
        DECK + "timeout: 0.5\nmemory_limit: 512 mib\nnoisy: false\n",
        DECK + "timeout: 1.5h\nmemory_limit: 16777216\n",
        with_part("name: bowl", "name: ' bowl '"),
        with_part("name: bowl", "name: true"),
        with_part("range: [0, 15]", "range: [1e-3, 15], scale: log, type: , default: 2"),
        with_part("range: [0, 15]", "range: [0, 15.0], type: integer, choices: []"),
        with_part("{name: value}", "{name: value, unit: 1, measure: out.x, range: [null, 4]}"),
        with_part("{name: value}", "{name: value, measure: '', range: [null, null]}"),
        with_part("simulator: function\nfunction: branin", "simulator: ngspice\ntemplate: a.cir"),
        with_part("simulator: function\nfunction: branin", "simulator: ngspice\ntemplate: [a.cir]"),
        with_part("simulator: function\nfunction: branin", "simulator: devsim\nentry: a.py:run"),
        with_part(
            "simulator: function\nfunction: branin",
            "simulator: devsim\nentry: a.py:run\nnoisy: true",
        ),
        with_part(
            "simulator: function\nfunction: branin\nparameters:",
            "simulator: devsim\nentry: a.py:run\n"
            "parameters:\n"
            "  - {name: kind, type: categorical, choices: [a, b], default: b, scale: linear}\n"
            "  - {name: level, type: ordinal, choices: [1, 2.5]}",
        ),
    ],
)
def test_what_the_checks_accept_has_the_schema(text: str) -> None:
    assert checks(text) == []
    assert schema(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "",
        DECK + "colour: red\n",
        with_part("name: bowl\n", ""),
        with_part("name: bowl", "name: "),
        with_part("name: bowl", "name: Bowl"),
        with_part("name: bowl", "name: 12"),
        with_part("name: bowl", "name: log"),
        with_part("name: bowl", "name: [a]"),
        with_part("simulator: function", "simulator: spice"),
        with_part("simulator: function", "simulator: "),
        with_part("simulator: function\n", ""),
        with_part("function: branin", "entry: a.py:run"),
        with_part("function: branin", "function: "),
        with_part("function: branin", "function: branin\ntemplate: a.cir"),
        with_part("simulator: function\nfunction: branin", "simulator: ngspice\ntemplate: []"),
        with_part("simulator: function\nfunction: branin", "simulator: ngspice\ntemplate: "),
        with_part("simulator: function\nfunction: branin", "simulator: ngspice\ntemplate: [1]"),
        with_part("simulator: function\nfunction: branin", "simulator: devsim\nentry: a.py"),
        with_part("simulator: function\nfunction: branin", "simulator: devsim\nentry: "),
        DECK.partition("parameters")[0] + "parameters: []\nresponses: [{name: value}]\n",
        DECK.partition("parameters")[0] + "parameters: \nresponses: [{name: value}]\n",
        DECK.partition("responses")[0],
        DECK.partition("responses")[0] + "responses: [value]\n",
        DECK.partition("responses")[0] + "responses: [{}]\n",
        with_part("{name: value}", "{unit: A}"),
        with_part("{name: value}", "{name: value, unit: [A]}"),
        with_part("{name: value}", "{name: value, unit: " + 33 * "u" + "}"),
        with_part("{name: value}", "{name: value, measure: 2x}"),
        with_part("{name: value}", "{name: value, range: }"),
        with_part("{name: value}", "{name: value, range: [1]}"),
        with_part("{name: value}", "{name: value, range: [low, 2]}"),
        with_part("{name: value}", "{name: value, limit: 3}"),
        with_part("range: [0, 15]", "range: [0, null]"),
        with_part("range: [0, 15]", "range: 15"),
        with_part("range: [0, 15]", "range: [true, 15]"),
        with_part("range: [0, 15]", "unit: um"),
        with_part("range: [0, 15]", "range: [0, 15], choices: [1, 2]"),
        with_part("range: [0, 15]", "range: [0, 15], type: whole"),
        with_part("range: [0, 15]", "range: [0, 1.5], type: integer"),
        with_part("range: [0, 15]", "range: [0, 15], scale: log"),
        with_part("range: [0, 15]", "range: [0, 15], scale: decades"),
        with_part("range: [0, 15]", "range: [0, 15], default: true"),
        with_part("range: [0, 15]", "type: categorical"),
        with_part("range: [0, 15]", "type: categorical, choices: [a]"),
        with_part("range: [0, 15]", "type: categorical, choices: [a, 1]"),
        with_part("range: [0, 15]", "type: categorical, choices: [a, a]"),
        with_part("range: [0, 15]", "type: categorical, choices: [a, '']"),
        with_part("range: [0, 15]", "type: categorical, choices: [1, true]"),
        with_part("range: [0, 15]", "type: ordinal, choices: [1, 2], range: [1, 2]"),
        with_part("range: [0, 15]", "type: ordinal, choices: [1, 2], scale: log"),
        DECK + "constraints: x1 <= 2\n",
        DECK + "constraints: [3]\n",
        DECK + "failure: stop\n",
        DECK + "failure: {policy: ignore}\n",
        DECK + "failure: {retries: 11}\n",
        DECK + "failure: {retries: 1.5}\n",
        DECK + "failure: {retries: }\n",
        DECK + "failure: {max_failed_fraction: 1.1}\n",
        DECK + "failure: {substitute: {value: 1}}\n",
        DECK + "failure: {policy: substitute}\n",
        DECK + "failure: {policy: substitute, substitute: {value: high}}\n",
        DECK + "timeout: 0\n",
        DECK + "timeout: 5 days\n",
        DECK + "timeout: \n",
        DECK + "timeout: 604801\n",
        DECK + "memory_limit: 1 byte\n",
        DECK + "memory_limit: 1000\n",
        DECK + "noisy: sometimes\n",
        DECK + "noisy: \n",
        DECK + "noisy: true\n",
        DECK + "version: {a: 1}\n",
    ],
)
def test_what_the_checks_refuse_by_its_form_has_no_schema(text: str) -> None:
    assert checks(text) != []
    assert schema(text) != []
