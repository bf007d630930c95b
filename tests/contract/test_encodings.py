"""No file is read or written in whatever encoding the locale has."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = {"read_text": 0, "write_text": 1}


def careless(tree: ast.AST) -> Iterator[int]:
    """The lines that open text without an encoding."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in TEXT and len(node.args) <= TEXT[name]:
            yield node.lineno
        if name in ("open", "fdopen") and any(
            isinstance(item, ast.Constant) and item.value in ("r", "w", "a", "x", "w+", "r+")
            for item in node.args
        ):
            yield node.lineno
        if name in ("run", "Popen", "check_output") and any(
            word.arg in ("text", "universal_newlines") for word in node.keywords
        ):
            yield node.lineno


def test_text_is_read_and_written_in_a_stated_encoding() -> None:
    places = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in ("client", "services")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line in careless(ast.parse(path.read_text("utf-8")))
    ]
    assert places == []
