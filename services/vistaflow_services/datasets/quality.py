"""Low-quality rules and deduplication, as SQL.

A row goes through these in order, and the first that it violates is the one it is rejected by:

    rule            rejects
    `type`          a value that does not fit the type which the request gives its column
    `primary_key`   a row without a value in one of the key's columns
    named rules     in the order of the request
    `duplicate`     all rows of a key but one, among those that violate nothing

As in an SQL CHECK, a rule that is neither true nor false because of a missing value is met;
`not_null` is for missing values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from vistaflow_services.core.errors import field_error
from vistaflow_services.datasets.engine import Engine, named, no_rows, quoted
from vistaflow_services.datasets.manifest import Column, find_column

TYPE, PRIMARY_KEY, DUPLICATE = "type", "primary_key", "duplicate"

MAX_RULES = 100
MAX_ALLOWED = 1000
"""Most values of one rule."""

Scalar = str | int | float | bool

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,62}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What every accepted row fulfils: an expression, or conditions on one column."""

    name: str
    expression: str = ""
    column: str = ""
    minimum: int | float | str | None = None
    """Inclusive, as `maximum`; text for dates and times, in ISO 8601."""

    maximum: int | float | str | None = None
    pattern: str = ""
    """A regular expression (RE2) that the whole value matches."""

    min_length: int | None = None
    """In characters, inclusive, as `max_length`."""

    max_length: int | None = None
    allowed: tuple[Scalar, ...] = ()
    """The only values."""

    not_null: bool = False


@dataclass(frozen=True, kw_only=True)
class Dedupe:
    """Which row of a key stays."""

    keep: Literal["newest", "first", "best"]
    """The largest value of `by`, and the later of equal ones; the first row; the largest value of
    `by`, and the earlier of equal ones. Rows without a value of `by` stay only if all lack it.
    """

    by: str = ""
    """An expression, such as `updated_at`; not for `first`."""

    key: tuple[str, ...] = ()
    """Columns; the primary key if empty. Rows that lack one of them are equal in that."""

    record: bool = True
    """Whether the other rows go to the rejects; otherwise they are only counted."""


def rules_sql(rules: Sequence[Rule], key: Sequence[str], columns: Sequence[Column]) -> str:
    """An SQL expression: the name of the first rule that a row violates, else NULL.

    Raises:
        InvalidError: A rule is malformed; names it.
    """
    if len(rules) > MAX_RULES:
        raise field_error("rules", f"are {len(rules)}; at most {MAX_RULES} are allowed")
    branches = [f"WHEN {named('_value')} IS NOT NULL THEN {quoted(TYPE)}"]
    for index, name in enumerate(key):
        column = named(find_column(columns, name, f"primary_key[{index}]").name)
        branches.append(f"WHEN {column} IS NULL THEN {quoted(PRIMARY_KEY)}")
    taken = {TYPE, PRIMARY_KEY, DUPLICATE}
    for index, rule in enumerate(rules):
        field = f"rules[{index}]"
        if not _NAME.fullmatch(rule.name) or rule.name in taken:
            raise field_error(
                f"{field}.name",
                "must be 1 to 63 of A-Z a-z 0-9 _ . - beginning with a letter, and the only one; "
                f"{TYPE}, {PRIMARY_KEY} and {DUPLICATE} are taken",
            )
        taken.add(rule.name)
        condition = _condition(rule, columns, field)
        branches.append(f"WHEN NOT ({condition}) THEN {quoted(rule.name)}")
    return f"CASE {' '.join(branches)} END"


def _condition(rule: Rule, columns: Sequence[Column], field: str) -> str:
    if bool(rule.expression) == bool(rule.column):
        raise field_error(field, "needs either an expression or a column with conditions")
    if rule.expression:
        from vistaflow_services.datasets.expressions import safe_sql

        return safe_sql(rule.expression, columns, f"{field}.expression")
    column = find_column(columns, rule.column, f"{field}.column")
    name, kind = named(column.name), column.type
    conditions = [f"{name} IS NOT NULL"] if rule.not_null else []
    if rule.minimum is not None:
        conditions.append(f"{name} >= {_literal(rule.minimum, kind, f'{field}.minimum')}")
    if rule.maximum is not None:
        conditions.append(f"{name} <= {_literal(rule.maximum, kind, f'{field}.maximum')}")
    if rule.pattern:
        conditions.append(f"regexp_full_match(CAST({name} AS VARCHAR), {quoted(rule.pattern)})")
    for limit, operator, what in (
        (rule.min_length, ">=", "min_length"),
        (rule.max_length, "<=", "max_length"),
    ):
        if limit is not None:
            if limit < 0:
                raise field_error(f"{field}.{what}", f"is {limit}; a length is at least 0")
            conditions.append(f"length(CAST({name} AS VARCHAR)) {operator} {int(limit)}")
    if rule.allowed:
        if len(rule.allowed) > MAX_ALLOWED:
            raise field_error(f"{field}.allowed", f"has more than {MAX_ALLOWED} values")
        values = (_literal(value, kind, f"{field}.allowed") for value in rule.allowed)
        conditions.append(f"{name} IN ({', '.join(values)})")
    if not conditions:
        raise field_error(field, "has no condition; give minimum, pattern, allowed or another one")
    return " AND ".join(conditions)


def _literal(value: Scalar, kind: str, field: str) -> str:
    """A value of a column's type, as SQL."""
    if isinstance(value, float) and not math.isfinite(value):
        raise field_error(field, "is not a finite number")
    return f"CAST({quoted(str(value))} AS {kind})"


def check_rules(engine: Engine, rules: Sequence[Rule], columns: Sequence[Column]) -> None:
    """Evaluates every rule on no rows, so that mistakes are found before the data is read.

    Raises:
        InvalidError: A rule does not fit the columns' types; names it.
    """
    for index, rule in enumerate(rules):
        field = f"rules[{index}]"
        checked = f"(SELECT {_condition(rule, columns, field)} FROM {no_rows(columns)})"
        (result,) = engine.columns(checked, field=field)
        if result.type not in ("BOOLEAN", '"NULL"'):
            raise field_error(field, f"is {result.type}, must be true or false")
        if rule.column:
            kind = find_column(columns, rule.column, field).type
            values = (rule.minimum, rule.maximum, *rule.allowed)
            constants = [_literal(value, kind, field) for value in values if value is not None]
            constants.append(f"regexp_full_match('', {quoted(rule.pattern)})")
            engine.rows(f"SELECT {', '.join(constants)}", field=field)


def check_pattern(pattern: str, field: str) -> None:
    """Whether a text is a regular expression.

    Raises:
        InvalidError: It is none.
    """
    import duckdb

    try:
        with duckdb.connect() as connection:
            connection.execute(f"SELECT regexp_full_match('', {quoted(pattern)})")
    except duckdb.Error:
        raise field_error(
            field, "is no regular expression of RE2; check its parentheses and backslashes"
        ) from None


def winners_sql(
    dedupe: Dedupe | None, primary_key: Sequence[str], columns: Sequence[Column], relation: str
) -> str | None:
    """A query for the `_row` of every row that stays, or None if there is no key.

    Args:
        dedupe: The request's; `first` if there is only a primary key.
        primary_key: Its columns.
        columns: Of the relation, without `_row` and the like.
        relation: An SQL text that may follow FROM, of rows that violate no rule.

    Raises:
        InvalidError: The key or the expression is malformed.
    """
    key = (dedupe.key if dedupe else ()) or tuple(primary_key)
    if dedupe and not key:
        raise field_error("dedupe.key", "is empty; name its columns, or give a primary_key")
    if not key:
        return None
    group = ", ".join(
        named(find_column(columns, name, f"dedupe.key[{index}]").name)
        for index, name in enumerate(key)
    )
    keep = dedupe.keep if dedupe else "first"
    if keep not in ("newest", "first", "best"):
        raise field_error("dedupe.keep", f"is `{keep}`; write newest, first or best")
    if keep == "first":
        if dedupe and dedupe.by:
            raise field_error("dedupe.by", "has no meaning with `first`; leave it out")
        return f"SELECT min(_row) AS winner FROM {relation} GROUP BY {group}"
    assert dedupe is not None
    from vistaflow_services.datasets.expressions import safe_sql

    by = safe_sql(dedupe.by, columns, "dedupe.by")
    place = "_row" if keep == "newest" else "-_row"
    order = f"(({by}) IS NOT NULL, ({by}), {place})"
    return f"SELECT arg_max(_row, {order}) AS winner FROM {relation} GROUP BY {group}"


def equal_sql(child: Column, parent: Column) -> str:
    """The condition that a value of `child` refers to one of `parent`, by these table names.

    If one of them is text and the other is not, the text is read as the other's type.
    """
    left, right = f"child.{named(child.name)}", f"parent.{named(parent.name)}"
    if (child.type == "VARCHAR") != (parent.type == "VARCHAR"):
        if child.type == "VARCHAR":
            left = f"TRY_CAST({left} AS {parent.type})"
        else:
            right = f"TRY_CAST({right} AS {child.type})"
    return f"{left} = {right}"
