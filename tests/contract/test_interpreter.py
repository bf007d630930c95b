"""Every Python that vistaflow starts keeps the current folder off its path."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vistaflow._machine.interpreter import module_command

ROOT = Path(__file__).parents[2]


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every list or call in the code that begins with the interpreter, as its constants."""
    for folder in ("client", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                items = node.elts if isinstance(node, ast.List | ast.Tuple) else []
                items = node.args if isinstance(node, ast.Call) else items
                if any(ast.unparse(item) == "sys.executable" for item in items):
                    words = [item.value for item in items if isinstance(item, ast.Constant)]
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", [str(word) for word in words]


def test_the_interpreter_is_started_isolated_or_without_the_current_folder() -> None:
    started = dict(commands())
    careless = {
        place: words
        for place, words in started.items()
        if words and not {"-I", "-P"} & set(words[: words.index("-m") + 1 if "-m" in words else 9])
    }
    assert started
    assert careless == {}


@pytest.mark.parametrize(
    "module", ["vistaflow_services.suite", "vistaflow_services.registry.backup"]
)
def test_what_lies_in_the_current_folder_is_not_imported_and_pythonpath_counts(
    tmp_path: Path, module: str
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    for folder in (here, elsewhere):
        folder.mkdir()
    for name in ("numpy", "types", "psycopg", "grpc", "typing"):
        (here / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
    (elsewhere / "sitecustomize.py").write_text("print('PYTHONPATH counts')")
    done = subprocess.run(
        [*module_command(module), "--help"],
        cwd=here,
        env={**os.environ, "PYTHONPATH": str(elsewhere)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PYTHONPATH counts\n")


def test_the_command_is_this_interpreter() -> None:
    assert module_command("json.tool") == [sys.executable, "-P", "-m", "json.tool"]
