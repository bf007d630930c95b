"""What the WHERE of a query says of the columns of one table.

It bounds what has to be listed, downloaded or asked for; the engine applies all conditions again.
So only what is certain counts: comparisons of a column with literals, ANDed in the WHERE of the
SELECT that reads the table, where the query names the table once.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlglot import exp

_COMPARISONS: Final[dict[type[exp.Expr], Callable[[Any, Any], bool]]] = {
    exp.EQ: operator.eq,
    exp.In: operator.eq,
    exp.GT: operator.gt,
    exp.GTE: operator.ge,
    exp.LT: operator.lt,
    exp.LTE: operator.le,
}


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A comparison of a column with literals, of which one has to be true."""

    column: str
    """In lower case."""

    operator: Callable[[Any, Any], bool]
    values: tuple[str, ...]
    """As the query has them, such as `7` or `2024-03-01`."""

    def allows_number(self, number: int) -> bool:
        """Whether it may be true of a whole number; yes if a value is no whole number."""
        if not all(value.isdecimal() for value in self.values):
            return True
        return any(self.operator(number, int(value)) for value in self.values)


def conditions_of(tree: exp.Query, parts: Sequence[str]) -> Iterator[Condition]:
    """The conditions on the columns of a table.

    Args:
        tree: The query.
        parts: The names that it calls the table by.
    """
    named = [
        node
        for node in tree.find_all(exp.Table)
        if [part.name.lower() for part in node.parts] == [part.lower() for part in parts]
    ]
    select = named[0].find_ancestor(exp.Select) if len(named) == 1 else None
    where = select.args.get("where") if select is not None else None
    if select is None or where is None:
        return
    # The rows of an outer join that have no partner are there whatever the WHERE of ON says; the
    # WHERE of the SELECT applies to all rows. With other tables a bare name may be theirs.
    alias = named[0].alias_or_name.lower()
    default = "" if select.args.get("joins") else alias
    both = where.this.flatten() if isinstance(where.this, exp.And) else [where.this]
    for node in both:
        compare, column = _COMPARISONS.get(type(node)), node.this
        if compare is None or not isinstance(column, exp.Column):
            continue
        literals = node.expressions if isinstance(node, exp.In) else [node.expression]
        values = [_text(literal) for literal in literals]
        if (column.table.lower() or default) == alias and values and None not in values:
            yield Condition(
                column=column.name.lower(),
                operator=compare,
                values=tuple(value for value in values if value is not None),
            )


def _text(node: exp.Expr) -> str | None:
    inner = node.this if isinstance(node, exp.Cast) else node
    return inner.name if isinstance(inner, exp.Literal) else None
