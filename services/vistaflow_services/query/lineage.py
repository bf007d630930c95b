"""Which columns of which tables a result's columns come from, and where an engine's error is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect as SqlglotDialect
from sqlglot.errors import SqlglotError
from sqlglot.lineage import lineage as column_lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope

from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.mistakes import Position, QueryError, nearest
from vistaflow_services.query.statement import TABLE, Statement, TableName
from vistaflow_services.query.tokens import joined, position_of, read_tokens

Schemas = Mapping[TableName, Sequence[Column]]
"""The columns of each table of a statement, partition keys included."""

_COLUMN: Final = re.compile(r"""[Cc]olumn (?:named )?["']([^"']+)["']""")
_TABLE: Final = re.compile(r"""[Tt]able ["']([^"']+)["'] not found""")
_FUNCTION: Final = re.compile(
    r"""[Ff]unction (?:with name )?["']?(\w+)["']? (?:does|not reg)"""
    r"""|argument types '(\w+)\(|for function (\w+)|Macro (\w+)\(\)"""
)
_SIMILAR: Final = re.compile(r'Did you mean "(\w+)"')


def lineage(statement: Statement, schemas: Schemas) -> dict[str, tuple[tuple[TableName, str], ...]]:
    """The source columns of each column of the result, by its name as the dialect folds it.

    Of two columns of one name the first is traced. Columns whose origin cannot be traced are
    absent; this never raises for a query that runs.
    """
    dialect = statement.dialect.value
    try:
        tree = statement.tree.copy()
        tables = _numbered(tree, statement)
        schema: dict[str, object] = {
            alias: {column.name: "VARCHAR" for column in schemas.get(name, ())}
            for alias, name in tables.items()
        }
        tree = qualify(tree, schema=schema, dialect=dialect, validate_qualify_columns=False)
        scope = build_scope(tree)
    except (SqlglotError, RecursionError):
        return {}
    result: dict[str, tuple[tuple[TableName, str], ...]] = {}
    for name in tree.named_selects if isinstance(tree, exp.Query) else ():
        try:
            node = column_lineage(name, tree, schema=schema, dialect=dialect, scope=scope)
        except (SqlglotError, RecursionError, KeyError, ValueError):
            continue
        origins: set[tuple[TableName, str]] = set()
        for leaf in node.walk():
            if not leaf.downstream and isinstance(leaf.expression, exp.Table):
                table = tables.get(leaf.expression.name)
                column = exp.to_column(leaf.name, dialect=dialect).name
                if table is not None and column != "*":
                    origins.add((table, _written(column, schemas.get(table, ()))))
        if origins:
            order = statement.tables.index
            result[name] = tuple(sorted(origins, key=lambda origin: (order(origin[0]), origin[1])))
    return result


def _numbered(tree: exp.Query, statement: Statement) -> dict[str, TableName]:
    """Gives every table of a tree a plain name; what each is."""
    names = {f"_table{index}": name for index, name in enumerate(statement.tables)}
    aliases = {name: alias for alias, name in names.items()}
    for table in tree.find_all(exp.Table):
        if name := table.meta.get(TABLE):
            alias = table.alias or name.parts[-1]
            table.replace(exp.table_(aliases[name], alias=alias, quoted=True))
    return names


def _written(name: str, columns: Sequence[Column]) -> str:
    """A column's name as its table has it: a parser may have changed its case."""
    matches = (column.name for column in columns if column.name.casefold() == name.casefold())
    return next(matches, name)


def located(error: QueryError, statement: Statement, schemas: Schemas) -> QueryError:
    """An engine's error with the place in the caller's text, and the nearest names.

    An engine's line and column are those of the converted SQL, so the name that it complains
    about is looked up in the text; without one there is no place.
    """
    problem = error.problem.partition("\n")[0].replace("trino_", "").rstrip(".!")
    known: list[str] = []
    if match := _COLUMN.search(problem):
        known = [name.name for columns in schemas.values() for name in columns]
    elif match := _TABLE.search(problem):
        known = [table.alias_or_name for table in statement.tree.find_all(exp.Table)]
    elif match := _FUNCTION.search(problem):
        similar = _SIMILAR.search(error.problem)
        known = [similar[1].removeprefix("trino_")] if similar else []
    word = next(filter(None, match.groups()), "") if match else error.word
    if word.casefold() not in map(str.casefold, known):
        problem += nearest(word, known)
    position = _place(word, statement, unique=match is None)
    return QueryError(problem, position, error.field)


def _place(word: str, statement: Statement, *, unique: bool) -> Position | None:
    """Where the text has a word; None if it has it several times and it must be `unique`."""
    grammar = SqlglotDialect.get_or_raise(statement.dialect.value)
    tokens, _ = joined(read_tokens(statement.text, grammar, ""), statement.text)
    starts = [token.start for token in tokens if token.text.casefold() == word.casefold()]
    if not starts or (unique and len(starts) > 1):
        return None
    return position_of(statement.text, starts[0])
