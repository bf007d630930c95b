"""SQL lives in `.sql` files beside the store that runs it.

A line `-- name: <name>` starts a query; the comment under it says what comes back.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources
from typing import LiteralString

_NAME = re.compile(r"^-- name: ([a-z0-9_]+)\n", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_MIGRATION = re.compile(r"\d{4}_.+\.sql")


@cache
def load_queries(package: str) -> dict[str, LiteralString]:
    """The queries of `sql/*.sql` in `package`, by name, without their comments.

    Numbered files are migrations and left out.

    Raises:
        ValueError: Two queries share a name.
    """
    # Our own files: as safe as if the queries were literals in the code.
    queries: dict[str, LiteralString] = {}
    for file in sorted((resources.files(package) / "sql").iterdir(), key=lambda each: each.name):
        if not file.name.endswith(".sql") or _MIGRATION.fullmatch(file.name):
            continue
        _, *parts = _NAME.split(file.read_text("utf-8"))
        for name, body in zip(parts[::2], parts[1::2], strict=True):
            if name in queries:
                raise ValueError(f"{package}: two queries are named {name}")
            # A comment's `%` would be taken for a parameter.
            queries[name] = _COMMENT.sub("", body).strip().rstrip(";")
    return queries


def edited(text: LiteralString, part: LiteralString, by: LiteralString) -> LiteralString:
    """A query with a part replaced, which it must have exactly once.

    Raises:
        ValueError: It has not: then the query was changed and its variant was forgotten.
    """
    count = text.count(part)
    if count != 1:
        raise ValueError(f"`{part}` is {count} times in the query, not once: {text[:200]}")
    return text.replace(part, by)
