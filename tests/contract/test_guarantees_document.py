"""Every guarantee that is written down names tests, and the tests are there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "guarantees.md").read_text()
GUARANTEES = dict(
    (part.split("\n", 1) if "\n" in part else (part, ""))
    for part in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]
)
TEST = re.compile(r"^\* `(tests/[\w/]+\.py)::(test_\w+)`( \(long\))?$", re.MULTILINE)


@cache
def functions(path: str) -> dict[str, bool]:
    """The tests of a file, and whether all or some of each take long."""
    tree = ast.parse((ROOT / path).read_text())
    return {
        node.name: any(ast.unparse(each) == "pytest.mark.slow" for each in node.decorator_list)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("name", GUARANTEES)
def test_a_guarantee_names_tests_that_exist(name: str) -> None:
    named = TEST.findall(GUARANTEES[name])
    assert named, "a guarantee without a test"
    for path, test, long in named:
        assert (ROOT / path).is_file(), f"there is no {path}"
        assert test in functions(path), f"{path} has no {test}"
        assert functions(path)[test] == bool(long), f"is {test} long, or not?"


def test_every_line_that_names_a_test_is_read() -> None:
    listed = [line for line in TEXT.splitlines() if line.startswith("* ")]
    assert len(listed) == len(TEST.findall(TEXT))
    assert len(GUARANTEES) > 30
    assert all(path for path, _, _ in TEST.findall(TEXT))
