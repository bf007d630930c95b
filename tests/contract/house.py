"""What the house looks like: modules, imports, names, phrases. Prints a report when run.

    python tests/contract/house.py [FOLDER OR FILE ...]

Without arguments it prints the figures of the whole project; with arguments every finding there.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
CODE = (ROOT / "client" / "vistaflow", ROOT / "services" / "vistaflow_services")
DOCS = tuple(
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "docs",
        "benchmarks",
        "examples",
        "protos",
    )
)

BANNED_NAMES = frozenset(
    [
        "told",
        "each",
        "found",
        "at",
        "kept",
        "wanted",
        "made",
        "given",
        "said",
        "here",
        "heard",
    ]
)
"""Participles and pronouns that say nothing of the value: nobody can search for them."""

BANNED_MODULES = frozenset(
    [
        "running",
        "guarding",
        "dumping",
        "selecting",
        "keeping",
        "given",
        "dialing",
        "reporting",
        "starting",
    ]
)
"""Modules are nouns. `listing` is one, so it is not here."""

BANNED_PHRASES = (
    r"\b(?:is|are|was|were|be|been) told\b",
    r"\btells? (?:nobody|everybody|whose|whoever)\b",
    r"\bwhoever\b",
    r"\bwhomever\b",
    r"\bin vain\b",
    r"\bfor ever\b",
    r"\banew\b",
    r"\bmend(?:ed|s|ing)?\b",
    r"\bstood in each other's way\b",
    r"\bbeside it stands?\b",
    r"\bas if by\b",
    r"\bthereof\b",
    r"\bwherein\b",
    r"\bwhereof\b",
    r"\bhence\b",
    r"\bhither\b",
    r"\bwhence\b",
    r"\blest\b",
    r"\bnought\b",
    r"\bupon\b",
    r"\bsomebody\b",
    r"\bgone on with\b",
    r"\bgoes on with\b",
    r"\bthat is why there\b",
    r"\bcomes? to nothing\b",
    r"\bwhat (?:is|was) the matter\b",
    r"\bof its own accord\b",
    r"\bby and by\b",
    r"\bto and fro\b",
)
"""Turns that are literary, archaic, or hard for readers whose second language is English."""

_PHRASES = re.compile("|".join(BANNED_PHRASES).replace(" ", r"\s+"), re.IGNORECASE)

_SPEEDS = re.compile(
    r"\b\d[\d.,]*\s*(?:µs|ns|MB/s|MiB/s|GB/s|GiB/s|rows/s|times\s+(?:as\s+fast|faster|slower))\b"
    r"|\b(?:takes?|took|costs?)\s+(?:about\s+)?\d[\d.,]*\s*m?s\b"
)
"""A figure with a unit that only measurements have, or the cost of something in (milli)seconds."""

COMMENT_MARKS = {".proto": "//", ".sh": "# ", ".sql": "-- "}
"""Files of which only the comments are prose, and what begins these."""

_MIGRATION = re.compile(r"\d{4}_\w+\.sql")
"""A migration is never edited once a database has run it."""

MOST_MODULES = 16


@dataclass(frozen=True)
class Finding:
    """A banned name or phrase."""

    file: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.text}"


def modules(places: Iterable[Path] = CODE) -> Iterator[Path]:
    """The project's own Python files."""
    for place in places:
        files = [place] if place.is_file() else sorted(place.rglob("*.py"))
        for file in files:
            foreign = {"shipped", "api", ".venv"} & set(file.parts)
            if file.suffix == ".py" and "_pb2" not in file.name and not foreign:
                yield file


def bindings(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that a module binds: variables, arguments, fields, functions, imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.alias):
            yield node.asname or "", getattr(node, "lineno", 0)
        elif (isinstance(node, ast.ExceptHandler) and node.name) or (
            isinstance(node, ast.MatchAs | ast.MatchStar) and node.name
        ):
            yield node.name, node.lineno


def banned_names(places: Iterable[Path] = CODE) -> list[Finding]:
    """Bindings of banned names, and modules that have one."""
    findings = []
    for file in modules(places):
        if file.stem in BANNED_NAMES | BANNED_MODULES:
            findings.append(Finding(file, 1, f"module `{file.stem}`"))
        for name, line in bindings(ast.parse(file.read_text("utf-8"))):
            if name.strip("_") in BANNED_NAMES:
                findings.append(Finding(file, line, f"name `{name}`"))
    return findings


def prose_of(file: Path) -> Iterator[tuple[int, str]]:
    """The prose of a file: (first line, text) of each paragraph, docstring, text or comment."""
    text = file.read_text("utf-8")
    if file.suffix == ".py":
        yield from texts_of(ast.parse(text))
        comments = [
            (token.start[0], token.string.lstrip("# "))
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        ]
        yield from _paragraphs(comments)
    elif file.suffix in COMMENT_MARKS:
        mark = COMMENT_MARKS[file.suffix]
        lines = list(enumerate(text.splitlines(), 1))
        yield from _paragraphs([(n, line.partition(mark)[2]) for n, line in lines if mark in line])
    else:
        yield from _paragraphs(list(enumerate(text.splitlines(), 1)))


def texts_of(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The texts of a module, docstrings included; of an f-string what is not an expression.

    Adjacent literals are one text, as Python joins them.
    """
    if isinstance(tree, ast.JoinedStr):
        constants = [
            str(value.value) if isinstance(value, ast.Constant) else "{}" for value in tree.values
        ]
        yield tree.lineno, "".join(constants)
        for value in tree.values:
            if isinstance(value, ast.FormattedValue):
                yield from texts_of(value.value)
    elif isinstance(tree, ast.Constant):
        if isinstance(tree.value, str):
            yield tree.lineno, tree.value
    else:
        for child in ast.iter_child_nodes(tree):
            yield from texts_of(child)


def _paragraphs(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Consecutive lines joined, so that a phrase is noticed across the end of a line."""
    first = 0
    texts: list[str] = []
    for number, line in lines:
        if texts and (number != first + len(texts) or not line.strip()):
            yield first, "\n".join(texts)
            texts = []
        if line.strip():
            first = first if texts else number
            texts.append(line)
    if texts:
        yield first, "\n".join(texts)


def matches(
    pattern: re.Pattern[str], prose: Iterable[tuple[int, str]]
) -> Iterator[tuple[int, str]]:
    """The line and the text of each match, with the line ends in it as spaces."""
    for first, text in prose:
        for match in pattern.finditer(text):
            yield first + text.count("\n", 0, match.start()), " ".join(match[0].split())


def prose_files(places: Iterable[Path]) -> list[Path]:
    """The Python files, documents, protos and scripts at or below these places."""
    files = []
    for place in places:
        if place.is_file():
            files.append(place)
            continue
        files += modules([place])
        for suffix in (".md", *COMMENT_MARKS):
            files += [
                file
                for file in sorted(place.rglob(f"*{suffix}"))
                if ".venv" not in file.parts and not _MIGRATION.fullmatch(file.name)
            ]
    return files


def banned_phrases(places: Iterable[Path] = (*CODE, *DOCS)) -> list[Finding]:
    """Banned phrases in docs, docstrings, comments and messages."""
    return [
        Finding(file, line, f"phrase `{text}`")
        for file in prose_files(places)
        for line, text in matches(_PHRASES, prose_of(file))
    ]


def speeds_in_docstrings(places: Iterable[Path] = CODE) -> list[Finding]:
    """Measured speeds in docstrings: they belong to `benchmarks/README.md`."""
    findings = []
    for file in modules(places):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(
                node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
            ) and (text := ast.get_docstring(node, clean=False)):
                prose = [(node.body[0].lineno, text)]
                findings += [
                    Finding(file, line, f"speed `{speed}`")
                    for line, speed in matches(_SPEEDS, prose)
                ]
    return findings


def large_folders(places: Iterable[Path] = CODE) -> dict[str, int]:
    """Folders with more modules than a newcomer reads through, and how many they have."""
    counts = Counter(
        str(file.parent.relative_to(ROOT)) for file in modules(places) if file.name != "__init__.py"
    )
    return {folder: count for folder, count in counts.items() if count > MOST_MODULES}


def shared_class_names() -> dict[str, list[str]]:
    """Names that two classes of one service, library or client share, with their modules."""
    shared = {}
    for place in CODE:
        by_name: dict[tuple[str, str], list[str]] = defaultdict(list)
        for file in modules([place]):
            parts = file.relative_to(place).with_suffix("").parts
            service = parts[0] if len(parts) > 1 else ""
            for node in ast.parse(file.read_text("utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    by_name[service if place == CODE[1] else "client", node.name].append(
                        ".".join(parts)
                    )
        for (service, name), places in by_name.items():
            if len(places) > 1:
                shared[f"{service}.{name}"] = places
    return shared


def functions(places: Iterable[Path] = CODE) -> list[tuple[int, int, int, str]]:
    """Functions, the hardest first: branches, lines, comments, name."""
    rows = []
    branch = ast.If | ast.For | ast.While | ast.Try | ast.BoolOp | ast.IfExp | ast.AsyncFor
    for file in modules(places):
        text = file.read_text("utf-8")
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                end = node.end_lineno or node.lineno
                branches = sum(isinstance(part, branch) for part in ast.walk(node))
                comments = sum(
                    line.strip().startswith("#") for line in lines[node.lineno - 1 : end]
                )
                name = f"{file.relative_to(ROOT)}:{node.name}"
                rows.append((branches, end - node.lineno + 1, comments, name))
    return sorted(rows, reverse=True)


def imports(folder: Path, files: list[Path]) -> tuple[int, int]:
    """How often these modules of a folder import one of it, and other code of the project."""
    place = CODE[1] if folder.is_relative_to(CODE[1]) else CODE[0]
    own = ".".join((place.name, *folder.relative_to(place).parts))
    names = {f"{own}.{file.stem}" for file in files} | {own}
    imported = Counter(
        node.module in names
        for file in files
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module
        if node.module.startswith("vistaflow") and ".api." not in f"{node.module}."
    )
    return imported[True], imported[False]


def report() -> str:
    """The figures of the whole project, as text."""
    lines = ["files and imports of each folder of services and client"]
    for folder in sorted({file.parent for file in modules()}):
        files = [file for file in modules([folder]) if file.parent == folder]
        inside, outside = imports(folder, files)
        lines.append(
            f"  {folder.relative_to(ROOT)!s:55} {len(files) - 1:3} modules, "
            f"imports inside {inside:3}, outside {outside:3}"
        )
    lines.append("the ten hardest functions: branches, lines, comments")
    hardest = functions()[:10]
    for branches, length, comments, name in hardest:
        lines.append(f"  {branches:3} {length:4} {comments:3}  {name}")
    total = sum(length for _, length, _, _ in hardest)
    comments = sum(comments for _, _, comments, _ in hardest)
    lines.append(f"  comments in 1,000 lines of these: {1000 * comments / total:.0f}")
    lines.append("the longest functions")
    for _, length, _, name in sorted(functions(), key=lambda row: -row[1])[:10]:
        lines.append(f"  {length:4}  {name}")
    lines.append(f"bindings of banned names: {len(banned_names())}")
    lines.append(f"banned phrases: {len(banned_phrases())}")
    lines.append(f"speeds in docstrings: {len(speeds_in_docstrings())}")
    lines.append(f"class names shared within a service: {len(shared_class_names())}")
    for name, count in large_folders().items():
        lines.append(f"more than {MOST_MODULES} modules: {name} has {count}")
    return "\n".join(lines)


def main(arguments: list[str]) -> None:
    """Prints the report, or the findings in the places named."""
    if not arguments:
        print(report())
        return
    places = [Path(argument).resolve() for argument in arguments]
    for finding in [
        *banned_names(places),
        *banned_phrases(places),
        *speeds_in_docstrings(places),
    ]:
        print(finding)
    for name, where in shared_class_names().items():
        print(f"class {name}: {', '.join(where)}")


if __name__ == "__main__":
    main(sys.argv[1:])
