"""The tree in the dialect of the engine that runs it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sqlglot import exp
from sqlglot.errors import ErrorLevel, SqlglotError

from vistaflow_services.query.duckdb_functions import for_duckdb
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.statement import TABLE, Dialect, Statement, TableName

_PLAIN = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII | re.IGNORECASE)

_NAMED = (exp.Column, exp.Dot, exp.Alias, exp.Aliases)
"""Results that have a name of their own in Trino."""


def converted(
    statement: Statement,
    engine: Dialect,
    relations: Mapping[TableName, tuple[str, ...]],
    *,
    limit: int | None = None,
    offset: int = 0,
) -> str:
    """The SQL for an engine.

    Every table is replaced by its relation and keeps the name that the query calls it by, so that
    `whisky.rating` still resolves.

    Args:
        statement: The query.
        engine: Who runs it.
        relations: Of each of `statement.tables`, the identifiers of what the engine knows: the
            `relation` of a `SourceTable`, such as `("reviews@3",)` or `("hive", "s", "t")`.
        limit: Most rows of the result. The SQL asks for one more, which tells whether the limit
            cut the result; give the same number as `Query.limit`.
        offset: Rows that are left out first.

    Raises:
        QueryError: The engine has no equivalent of a part of the query.
    """
    try:
        tree = statement.tree.copy()
        for select in list(tree.find_all(exp.Select)):
            _shorten(select)
        for table in list(tree.find_all(exp.Table)):
            if TABLE in table.meta:
                _replace(table, relations[table.meta[TABLE]])
        if statement.dialect is Dialect.TRINO:
            _name_results(tree)
            if engine is Dialect.DUCKDB:
                for_duckdb(tree)
        for identifier in tree.find_all(exp.Identifier):
            if not _PLAIN.fullmatch(identifier.name):
                identifier.set("quoted", True)
        if offset:
            tree = tree.offset(offset, copy=False)
        if limit is not None:
            tree = tree.limit(limit + 1, copy=False)
        return tree.sql(dialect=engine.value, comments=False, unsupported_level=ErrorLevel.RAISE)
    except SqlglotError as error:
        raise QueryError(f"{engine} has no equivalent: {error}") from None
    except RecursionError:
        raise QueryError("is nested too deeply; write parts of it as WITH") from None


def _replace(table: exp.Table, relation: tuple[str, ...]) -> None:
    """Puts a relation in place of a table, under the name that the query calls it by."""
    alias = table.args.get("alias") or exp.TableAlias()
    if not alias.this:
        alias.set("this", exp.to_identifier(table.meta[TABLE].parts[-1]))
    names = [exp.to_identifier(name, quoted=True) for name in reversed(relation)]
    for key, name in zip(("this", "db", "catalog"), [*names, None, None], strict=False):
        table.set(key, name)
    table.set("alias", alias)


def _shorten(select: exp.Select) -> None:
    """Makes `lake.reviews.stars` and `reviews@3.stars` the column of what is called `reviews`."""
    names = [
        table.meta[TABLE]
        for table in select.find_all(exp.Table)
        if TABLE in table.meta and table.parent_select is select and not table.alias
    ]
    for column in select.find_all(exp.Column):
        qualifier = [part.name.casefold() for part in column.parts[:-1]]
        for name in names:
            parts = [part.casefold() for part in name.parts]
            if qualifier and qualifier[-1] == f"{parts[-1]}@{name.version}".casefold():
                qualifier[-1] = parts[-1]
            elif len(qualifier) < 2:
                continue
            if parts[-len(qualifier) :] == qualifier:
                short = exp.to_identifier(name.parts[-1])
                column.replace(exp.Column(this=column.this.copy(), table=short))
                break


def _name_results(tree: exp.Query) -> None:
    """Names the columns of the result that have no name as Trino does: `_col0` and so on."""
    first = tree
    while not isinstance(first, exp.Select):
        first = first.this
        if not isinstance(first, exp.Query):
            return
    for index, expression in enumerate(list(first.expressions)):
        if not expression.is_star and not isinstance(expression, _NAMED):
            expression.replace(exp.alias_(expression.copy(), f"_col{index}"))
