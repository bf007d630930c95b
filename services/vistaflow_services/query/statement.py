"""A query's text as a checked tree: its tables, its limits, what it depends on.

statement = parse("select a.id from reviews@3 a where a.stars > :n limit 5",
                  parameters={"n": Parameter(type=ParameterType.WHOLE, value=3)})
statement.tables       (TableName(parts=("reviews",), version="3", …),)
statement.limit        5
converted(statement, Dialect.DUCKDB, {name: ("reviews@3",) for name in statement.tables})
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect as SqlglotDialect
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token

from vistaflow_services.core.errors import Violations, cut
from vistaflow_services.query.functions import REFUSED, SERIES, called_name, is_volatile
from vistaflow_services.query.mistakes import FIELD, Position, QueryError, nearest
from vistaflow_services.query.parameters import MAX_PARAMETERS, Parameter, literal
from vistaflow_services.query.tokens import check, joined, position_of, read_tokens

# It would write callers' SQL to the log of the service.
logging.getLogger("sqlglot").setLevel(logging.CRITICAL)

MAX_NODES = 20_000
"""Most nodes of a tree."""

TABLE = "table"
"""Under this key a table's node has its `TableName` among its `meta`."""

_REFUSED_NODES = (
    exp.DDL, exp.DML, exp.Command, exp.Into, exp.Lock, exp.Describe, exp.Summarize, exp.Show,
    exp.Pragma, exp.Set, exp.Attach, exp.Detach, exp.Copy, exp.Use, exp.Kill, exp.Transaction,
    exp.Commit, exp.Rollback, exp.Parameter, exp.SessionParameter, exp.Placeholder,
    exp.TableFromRows, exp.MatchRecognize, exp.JSONTable, exp.OpenJSON,
)  # fmt: skip
"""Nodes that are not part of a SELECT, or call a table function."""

_REQUIRED = re.compile(r"Required keyword: '\w+' missing for <class '[\w.]*\.(\w+)'>")
_OF_TABLES = frozenset({"this", "db", "catalog", "alias", "joins", "laterals", "sample", "pivots"})
"""What the node of a table may have; not, for example, a version as of a time."""


class Dialect(StrEnum):
    """The dialect of a text, and what an engine understands."""

    TRINO = "trino"
    DUCKDB = "duckdb"


@dataclass(frozen=True, kw_only=True)
class TableName:
    """A table as a query names it; equal to another name of the same table."""

    parts: tuple[str, ...]
    """One to four names, lower-case where the text does not quote them: `(table,)` up to
    `(service, database, schema, table)`."""

    version: str = ""
    """What follows `@`: a number or an alias; empty if the query names no version."""

    positions: tuple[Position, ...] = field(default=(), compare=False)
    """Where the text names it."""

    @property
    def text(self) -> str:
        """As one name, such as `lake.reviews@3`; unique within a statement."""
        names = [f'"{part}"' if "." in part or '"' in part else part for part in self.parts]
        return ".".join(names) + (f"@{self.version}" if self.version else "")


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A query that is exactly one SELECT and calls nothing that is refused."""

    text: str
    """As the caller wrote it."""

    dialect: Dialect
    tables: tuple[TableName, ...]
    """The tables that it reads, each once, in the order of the text; names of WITH are none."""

    limit: int | None
    """Of its outermost LIMIT or FETCH FIRST; None without one and for LIMIT ALL."""

    offset: int
    """Of its outermost OFFSET."""

    volatile: tuple[str, ...]
    """Why an equal text may have another answer, such as `now()`; empty if it may not. A result
    may be used again only if this is empty."""

    tree: exp.Query = field(repr=False, compare=False)
    """Without the outermost limits, with parameters bound. Callers must not change it."""


def parse(
    text: str,
    *,
    dialect: Dialect = Dialect.TRINO,
    parameters: Mapping[str, Parameter] | None = None,
    source: str = FIELD,
) -> Statement:
    """Reads and checks a query; runs nothing and opens nothing.

    Args:
        text: One SELECT, with WITH, set operations and subqueries as it likes.
        dialect: What it is written in.
        parameters: The values of its `:parameters`, by name without the colon.
        source: The field that has the text, for messages.

    Raises:
        QueryError: It is not one SELECT, or it calls what is refused; has line and column.
        InvalidError: A parameter is missing, unused or not of its type; names the field.
    """
    grammar = SqlglotDialect.get_or_raise(dialect.value)
    tokens = read_tokens(text, grammar, source)
    check(tokens, text, source, dialect is Dialect.DUCKDB)
    tokens, marks = joined(tokens, text)
    try:
        tree = _parsed(grammar, tokens, text, source)
        _bind(tree, marks, parameters or {}, text, source)
        tree, limit, offset = _limits(tree, text, source)
        _check_nodes(tree, text, source, dialect)
        tables = _tables(tree, text, source)
        changing = [called_name(node) for node in tree.walk() if is_volatile(node)]
    except RecursionError:
        raise QueryError("is nested too deeply; write parts of it as WITH", None, source) from None
    return Statement(
        text=text,
        dialect=dialect,
        tables=tables,
        limit=limit,
        offset=offset,
        volatile=tuple(dict.fromkeys(changing)),
        tree=tree,
    )


def place(node: exp.Expr, text: str) -> Position | None:
    """Where the text has the first name of a node, as far as that is known."""
    starts = [part.meta["start"] for part in node.walk() if "start" in part.meta]
    return position_of(text, min(starts)) if starts else None


def _parsed(grammar: SqlglotDialect, tokens: list[Token], text: str, source: str) -> exp.Query:
    try:
        trees = grammar.parser().parse(tokens, text)
    except SqlglotError as error:
        details = (getattr(error, "errors", None) or [{}])[0]
        problem = details.get("description") or "is not SQL"
        problem = _REQUIRED.sub(lambda match: f"{match[1].upper()} is not complete", problem)
        problem = problem.replace("Invalid expression / Unexpected token", "is not SQL")
        if details.get("highlight"):
            problem += f", near `{cut(details['highlight'], 60)}`"
        line, column = details.get("line"), details.get("col")
        # A token's column is that of its last character.
        column = max(1, column - len(details.get("highlight") or " ") + 1) if column else 1
        position = Position(line=line, column=column) if line else None
        raise QueryError(problem, position, source) from None
    tree = trees[0] if len(trees) == 1 else None
    if not isinstance(tree, exp.Select | exp.SetOperation | exp.Subquery):
        kind = tokens[0].text.upper() if tokens else "nothing"
        start = tokens[0].start if tokens else 0
        problem = f"is {kind}; a query is exactly one SELECT"
        raise QueryError(problem, position_of(text, start), source)
    return tree


def _bind(
    tree: exp.Query,
    marks: Mapping[int, str],
    parameters: Mapping[str, Parameter],
    text: str,
    source: str,
) -> None:
    """Puts the parameters' values where the text has `:name`."""
    if len(parameters) > MAX_PARAMETERS:
        raise QueryError(f"has more than {MAX_PARAMETERS} parameters", None, source)
    values = {name: literal(name, parameter) for name, parameter in parameters.items()}
    for start, name in marks.items():
        if name not in values:
            problem = f"the parameter `:{cut(name, 60)}` has no value{nearest(name, values)}"
            raise QueryError(problem, position_of(text, start), source)
    violations = Violations()
    for name in sorted(set(values) - set(marks.values())):
        problem = f"the query has no `:{cut(name, 60)}`{nearest(name, set(marks.values()))}"
        violations.add(f"parameters.{cut(name, 60)}", problem)
    violations.check()
    bound = set()
    for column in list(tree.find_all(exp.Column)):
        start = column.this.meta.get("start", -1)
        if start in marks and len(column.parts) == 1:
            bound.add(start)
            column.replace(values[marks[start]].copy())
    for start in sorted(set(marks) - bound):
        problem = f"`:{cut(marks[start], 60)}` is not where a value can be"
        raise QueryError(problem, position_of(text, start), source)


def _limits(tree: exp.Query, text: str, source: str) -> tuple[exp.Query, int | None, int]:
    """The tree without its outermost limits, and what they are."""
    numbers: dict[str, int | None] = {"limit": None, "offset": None}
    for key in numbers:
        clause = tree.args.get(key)
        if clause is None:
            continue
        options = clause.args.get("limit_options")
        if options and (options.args.get("with_ties") or options.args.get("percent")):
            raise QueryError("WITH TIES and PERCENT are not supported", place(tree, text), source)
        number = clause.args.get("expression") or clause.args.get("count")
        if isinstance(clause, exp.Fetch) and number is None:
            number = exp.Literal.number(1)  # FETCH NEXT ROW ONLY
        if isinstance(number, exp.Cast):  # a bound parameter
            number = number.this
        if isinstance(number, exp.Literal) and number.name.isdecimal():
            numbers[key] = int(number.name)
        elif not (isinstance(number, exp.Column | exp.Var) and number.name.upper() == "ALL"):
            problem = f"{key.upper()} must be a whole number or a parameter"
            raise QueryError(problem, place(clause, text), source)
        tree.set(key, None)
    return tree, numbers["limit"], numbers["offset"] or 0


def _check_nodes(tree: exp.Query, text: str, source: str, dialect: Dialect) -> None:
    for count, node in enumerate(tree.walk(), start=1):
        if count > MAX_NODES:
            raise QueryError(f"has more than {MAX_NODES:,} parts", None, source)
        if isinstance(node, _REFUSED_NODES):
            problem = f"{node.key.upper()} is not allowed in a query"
            if isinstance(node, exp.Placeholder | exp.Parameter | exp.SessionParameter):
                problem = "is no parameter; write `:name` and send its value"
        elif isinstance(node, exp.Column) and node.name.startswith("$"):
            # Trino's hidden columns, such as the path of a row's file.
            problem = f"`{cut(node.name, 60)}` is not allowed; write `:name` for a parameter"
        elif isinstance(node, exp.Func) and called_name(node) in REFUSED:
            problem = f"the function {called_name(node)} is not allowed"
        elif isinstance(node, exp.Table) and not _is_series(node, dialect):
            if isinstance(node.this, exp.Identifier | exp.Dot) and not node.find(exp.Func):
                extra = {key for key, value in node.args.items() if value} - _OF_TABLES
                if not extra:
                    continue
                problem = f"{sorted(extra)[0].upper()} is not allowed after a table"
            elif node.this.find(exp.Func):
                name = called_name(node.this.find(exp.Func) or node)
                problem = f"the table function {cut(name, 60)} is not allowed; read a table by name"
            else:
                continue
        elif isinstance(node, exp.Lateral) and not isinstance(
            node.this, exp.Subquery | exp.Unnest | exp.Explode
        ):
            problem = "LATERAL may be followed by a query or UNNEST, not by a table function"
        elif isinstance(node, exp.Subquery) and not isinstance(
            node.this, exp.Query | exp.Table | exp.Values | exp.Join
        ):
            problem = f"{node.this.key.upper()} is not allowed in a query"
        else:
            continue
        raise QueryError(problem, place(node, text) or place(node.parent or node, text), source)


def _is_series(table: exp.Table, dialect: Dialect) -> bool:
    """Whether this is one of DuckDB's functions that make numbers."""
    call = table.this
    if dialect is not Dialect.DUCKDB or not isinstance(call, exp.Func):
        return False
    return isinstance(call, exp.GenerateSeries) or called_name(call) in SERIES


def _tables(tree: exp.Query, text: str, source: str) -> tuple[TableName, ...]:
    """The tables of the tree; marks each of their nodes."""
    positions: dict[TableName, list[Position]] = {}
    for table in tree.find_all(exp.Table):
        identifiers = [part for part in table.parts if isinstance(part, exp.Identifier)]
        if not identifiers:
            continue  # a series of numbers
        if len(identifiers) == 1 and is_common(table):
            continue
        last, _, version = identifiers[-1].name.partition("@")
        names = [*(_folded(part, part.name) for part in identifiers[:-1])]
        names.append(_folded(identifiers[-1], last))
        position = place(table, text)
        if len(names) > 4 or not all(names) or set("@$") & set(version + "".join(names)):
            problem = "is no name of a table; write `service.database.schema.table@version`"
            raise QueryError(f"`{cut('.'.join(names), 80)}` {problem}", position, source)
        name = TableName(parts=tuple(names), version=version)
        table.meta[TABLE] = name
        positions.setdefault(name, []).extend([position] if position else [])
    ordered = sorted(positions, key=lambda name: positions[name][:1])
    return tuple(
        TableName(parts=name.parts, version=name.version, positions=tuple(sorted(positions[name])))
        for name in ordered
    )


def _folded(identifier: exp.Identifier, name: str) -> str:
    return name if identifier.quoted else name.lower()


def is_common(table: exp.Table) -> bool:
    """Whether the name of a table is one of WITH, by where it is."""
    name = table.name.casefold()
    return any(name == visible.casefold() for visible in _visible(table))


def _visible(node: exp.Expr) -> Iterator[str]:
    """The names of WITH that can be used at a node."""
    below: exp.Expr = node
    inside: exp.CTE | None = None
    while (above := below.parent) is not None:
        if isinstance(below, exp.CTE):
            inside = below
        if isinstance(above, exp.With):
            for common in above.expressions:
                if common is inside and not above.args.get("recursive"):
                    break
                yield common.alias
                if common is inside:
                    break
        elif (commons := above.args.get("with_")) is not None and commons is not below:
            yield from (common.alias for common in commons.expressions)
        below = above
