"""No ordinary test asserts that something took less than a time: another machine is slower.

A test waits for a condition, with a limit far beyond what it takes, or counts what is done. What
only a figure can say is a ratio of one run, in a test marked slow or in `benchmarks/`.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CLOCKS = frozenset(
    f"{name}{unit}"
    for name in ("monotonic", "perf_counter", "process_time", "thread_time", "time")
    for unit in ("", "_ns")
)
STOPWATCHES = frozenset(["getrusage", "repeat", "timeit"])
Function = ast.FunctionDef | ast.AsyncFunctionDef


def upper_bounds(source: str) -> list[int]:
    """Lines of assertions that a time that passed is less than something."""
    if not any(f"{name}(" in source for name in (*CLOCKS, *STOPWATCHES)):
        return []
    tree = ast.parse(source)
    functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
    stopwatches = set(STOPWATCHES)
    for function in functions:
        elapsed = _Elapsed(function, stopwatches)
        returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
        if any(node.value is not None and elapsed.is_in(node.value) for node in returns):
            stopwatches.add(function.name)
    lines = set()
    for function in functions:
        if "pytest.mark.slow" in map(ast.unparse, function.decorator_list):
            continue
        elapsed = _Elapsed(function, stopwatches)
        for node in ast.walk(function):
            if isinstance(node, ast.Assert) and any(map(elapsed.is_in, _smaller(node.test))):
                lines.add(node.lineno)
    return sorted(lines)


class _Elapsed:
    """The expressions of a function that come from a difference of clock readings."""

    def __init__(self, function: Function, stopwatches: set[str]) -> None:
        self._stopwatches = stopwatches
        self._names: set[str] = set()
        size = -1
        while size < len(self._names):  # what derives from what derives from it
            size = len(self._names)
            for node in ast.walk(function):
                self._follow(node)

    def is_in(self, expression: ast.expr) -> bool:
        return any(
            (isinstance(node, ast.Name) and node.id in self._names)
            or (isinstance(node, ast.Call) and _called(node) in self._stopwatches)
            or (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _reads(node))
            for node in ast.walk(expression)
        )

    def _follow(self, node: ast.AST) -> None:
        targets: list[ast.expr] = []
        match node:
            case ast.Assign(targets=targets, value=value) if self.is_in(value):
                pass
            case ast.AnnAssign(target=target, value=ast.expr() as value) if self.is_in(value):
                targets = [target]
            case ast.AugAssign(target=target, value=value) if self.is_in(value):
                targets = [target]
            case ast.Call(func=ast.Attribute(value=value, attr="add" | "append")):
                targets = [value] if any(map(self.is_in, node.args)) else []
            case _:
                return
        for target in targets:
            self._names |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name)}


def _called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _reads(expression: ast.expr) -> bool:
    """Whether a clock is read in it."""
    return any(
        isinstance(node, ast.Call) and _called(node) in CLOCKS for node in ast.walk(expression)
    )


def _smaller(test: ast.expr) -> list[ast.expr]:
    """What is claimed to be less than something else."""
    smaller = []
    for compare in ast.walk(test):
        if isinstance(compare, ast.Compare):
            sides = [compare.left, *compare.comparators]
            for left, operator, right in zip(sides, compare.ops, sides[1:], strict=False):
                if isinstance(operator, ast.Lt | ast.LtE):
                    smaller.append(left)
                elif isinstance(operator, ast.Gt | ast.GtE):
                    smaller.append(right)
    return smaller


def test_no_ordinary_test_asserts_that_something_was_quick() -> None:
    lines = [
        f"{file.relative_to(TESTS)}:{line}"
        for file in sorted(TESTS.rglob("*.py"))
        for line in upper_bounds(file.read_text("utf-8"))
    ]
    assert lines == []


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ("begun = time.monotonic()\n act()\n assert time.monotonic() - begun < 5", 1),
        ("begun = thread_time()\n took = thread_time() - begun\n assert took <= 0.3 + 6", 1),
        ("took.append(time.process_time() - 5)\n assert sorted(took)[2] < 1", 1),
        ("slowest = max(slowest, clock.time() - begun)\n assert 10 > slowest", 1),
        ("assert min(timeit.repeat(act)) < 3", 1),
        ("assert seconds() < 3\ndef seconds():\n return time.monotonic() - BEGUN", 1),
        ("end = time.monotonic() + 60\n assert time.monotonic() < end", 0),
        ("begun = time.monotonic()\n act()\n assert time.monotonic() - begun >= 0.4", 0),
        ("spent = time.monotonic() - 5\n assert wakes <= 200 * spent", 0),
    ],
)
def test_an_upper_bound_of_a_time_is_seen(body: str, count: int) -> None:
    assert len(upper_bounds(f"def test():\n {body}")) == count
    assert upper_bounds(f"@pytest.mark.slow\ndef test():\n {body}") == []
