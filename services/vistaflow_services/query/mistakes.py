"""Errors of a query, with line, column and the nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from vistaflow_services.core.errors import FieldViolation, InvalidError, cut

FIELD = "user_query"
"""The field of a request that has the text."""


@dataclass(frozen=True, kw_only=True, order=True)
class Position:
    """A place in the text of a query; both count from 1, columns in characters."""

    line: int
    column: int


class QueryError(InvalidError):
    """A query that cannot run, and where in its text the reason is.

    `metadata` has `line` and `column` if they are known, and `reason` is `SQL`.
    """

    reason = "SQL"

    def __init__(
        self,
        problem: str,
        position: Position | None = None,
        field: str = FIELD,
        *,
        word: str = "",
    ) -> None:
        """Says what is wrong.

        Args:
            problem: What is wrong and how to correct it.
            position: Where, in the text as the caller wrote it.
            field: The field that has the text.
            word: The word of the converted SQL that an engine points to.
        """
        self.problem = problem
        self.field = field
        self.word = word
        self.position = position
        text = f"line {position.line}, column {position.column}: {problem}" if position else problem
        super().__init__(
            f"{field}: {text}",
            violations=[FieldViolation(field=field, description=text)],
            metadata=(
                {"line": str(position.line), "column": str(position.column)} if position else {}
            ),
        )


def nearest(name: str, known: Iterable[str], count: int = 3) -> str:
    """What to write instead of an unknown name, as the end of a message.

    Args:
        name: What the caller wrote.
        known: What there is.
        count: Most names that are given.

    Returns:
        Such as `; did you mean `rating`?`, or what there is if nothing is similar, or "".
    """
    names = list(dict.fromkeys(known))
    folded = {candidate.casefold(): candidate for candidate in names}
    matches = difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=0.6)
    if matches:
        return "; did you mean " + " or ".join(f"`{folded[match]}`" for match in matches) + "?"
    return f"; there are {cut(', '.join(names), 300)}" if names else ""
