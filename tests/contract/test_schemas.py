"""The JSON Schemas that the client ships are those of the checks; every file of ours has one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator
from typer.testing import CliRunner

from tests.contract.schemas import FOLDER, SCHEMAS, text_of  # type: ignore[import-not-found]
from vistaflow.cli.app import app
from vistaflow_services.decks.deck import SHIPPED
from vistaflow_services.decks.files.document import read_document

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```yaml(.*?)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/*.md")])


def problems(name: str, text: str) -> list[str]:
    root = read_document(text.encode(), name).root
    return [error.message for error in Draft7Validator(SCHEMAS[name]()).iter_errors(root)]


def written_files() -> list[Any]:
    """The decks and kits of the documentation: yaml blocks that have the keys of one."""
    cases = []
    for page in PAGES:
        for number, (_, text) in enumerate(BLOCK.findall(page.read_text("utf-8"))):
            keys = set(re.findall(r"^(\w+):", text, re.MULTILINE))
            name = "deck" if "simulator" in keys else "kit" if "deck" in keys else ""
            if name:
                cases.append(pytest.param(name, text, id=f"{page.name}-{number}"))
    return cases


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_shipped_schema_is_that_of_the_checks(name: str) -> None:
    shipped = (FOLDER / f"{name}.json").read_text("utf-8")

    assert shipped == text_of(name), "run `make schemas`"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    Draft7Validator.check_schema(SCHEMAS[name]())


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_command_prints_the_schema(name: str) -> None:
    result = CliRunner().invoke(app, ["schema", name])

    assert (result.exit_code, json.loads(result.output)) == (0, SCHEMAS[name]())


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*/*.yaml")), ids=str)
def test_every_shipped_file_has_its_schema(file: Path) -> None:
    assert problems(file.stem, file.read_text("utf-8")) == []


def test_the_documentation_has_decks_and_kits() -> None:
    names = [case.values[0] for case in written_files()]

    assert names.count("deck") >= 2
    assert names.count("kit") >= 3


@pytest.mark.parametrize(("name", "text"), written_files())
def test_every_file_of_the_documentation_has_its_schema(name: str, text: str) -> None:
    assert problems(name, text) == []
