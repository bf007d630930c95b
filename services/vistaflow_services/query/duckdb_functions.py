"""Trino's functions and operators in DuckDB's SQL, so that a query means the same on both.

Most of what differs is a macro of `trino_macros.sql` and only its call is written here. Integer
division is a setting of the engine. What differs by nature is listed in `docs/dialects.md`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib import resources
from typing import Final

from sqlglot import exp

_PARTS: Final = {
    "DOW": "ISODOW",
    "DAYOFWEEK": "ISODOW",
    "DAY_OF_WEEK": "ISODOW",
    "DAYOFYEAR": "DOY",
    "DAY_OF_YEAR": "DOY",
    "YOW": "ISOYEAR",
    "YEAR_OF_WEEK": "ISOYEAR",
    "DAY_OF_MONTH": "DAY",
}
"""Fields of EXTRACT."""

_CALLS: Final[dict[type[exp.Expr], tuple[str, ...]]] = {
    exp.GenerateSeries: ("sequence", "start", "end", "step"),
    exp.Repeat: ("repeat", "this", "times"),
    exp.ArraySlice: ("slice", "this", "start", "end"),
    exp.ArrayPosition: ("array_position", "this", "expression"),
    exp.ArrayDistinct: ("array_distinct", "this"),
    exp.ArrayIntersect: ("array_intersect", "expressions"),
    exp.ArrayExcept: ("array_except", "this", "expression"),
    exp.Reduce: ("reduce", "this", "initial", "merge", "finish"),
    exp.WidthBucket: ("width_bucket", "this", "min_value", "max_value", "num_buckets"),
    exp.Normalize: ("normalize", "this"),
    exp.Skewness: ("skewness", "this"),
    exp.SplitPart: ("split_part", "this", "delimiter", "part_index"),
    exp.RegexpExtract: ("regexp_extract", "this", "expression", "group"),
}
"""Functions that are a macro's call: its name, and the arguments in its order."""

_MACRO = re.compile(r"create macro (trino_\w+).*?;\n", re.DOTALL)


@lru_cache(maxsize=1)
def macros() -> dict[str, str]:
    """The statement that creates each macro, by its name."""
    text = resources.files(__package__).joinpath("trino_macros.sql").read_text("utf-8")
    return {match[1]: match[0] for match in _MACRO.finditer(text)}


def for_duckdb(tree: exp.Query) -> None:
    """Changes a tree of Trino's dialect, in place."""
    # From the leaves up: what a rule puts in place of a node has its final arguments.
    for node in reversed(list(tree.walk())):
        rule = _RULES.get(type(node))
        replacement = rule(node) if rule else _call(node)
        if replacement is not None and replacement is not node:
            node.replace(replacement)


def _call(node: exp.Expr) -> exp.Expr | None:
    if isinstance(node, exp.ArrayOverlaps):
        return exp.Anonymous(this="list_has_any", expressions=[node.this, node.expression])
    if isinstance(node, exp.Format):
        return exp.Anonymous(this="printf", expressions=[node.this, *node.expressions])
    if isinstance(node, exp.Anonymous):
        name, arguments = f"trino_{node.name.lower()}", node.expressions
        return exp.Anonymous(this=name, expressions=arguments) if name in macros() else None
    if type(node) not in _CALLS:
        return None
    name, *keys = _CALLS[type(node)]
    values = [node.args.get(key) for key in keys]
    arguments = [
        item for value in values for item in (value if isinstance(value, list) else [value])
    ]
    return _macro(name, *(argument for argument in arguments if argument is not None))


def _macro(name: str, *arguments: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this=f"trino_{name}", expressions=list(arguments))


def _unit(node: exp.Expr) -> exp.Expr:
    return exp.Literal.string(node.args["unit"].name.lower())


def _date_trunc(node: exp.Expr) -> exp.Expr:
    return _macro("date_trunc", _unit(node), node.this)


def _date_add(node: exp.Expr) -> exp.Expr:
    interval = exp.Interval(this=exp.paren(node.expression), unit=node.args["unit"])
    return _macro("plus", node.this, interval)


def _date_diff(node: exp.Expr) -> exp.Expr:
    # Whole units between the two, not borders that are crossed.
    return exp.func("date_sub", _unit(node), node.expression, node.this, dialect="duckdb")


def _sum(node: exp.Expr) -> exp.Expr | None:
    name = "plus" if isinstance(node, exp.Add) else "minus"
    left, right = node.this, node.expression
    if isinstance(right, exp.Interval):
        return _macro(name, left, right)
    return _macro(name, right, left) if isinstance(left, exp.Interval) else None


def _extract(node: exp.Expr) -> exp.Expr | None:
    part = _PARTS.get(node.name.upper())
    return exp.Extract(this=exp.var(part), expression=node.expression) if part else None


def _replace_groups(node: exp.Expr) -> exp.Expr | None:
    text = node.args.get("replacement")
    if isinstance(text, exp.Literal):
        escaped = text.name.replace("\\", "\\\\")
        text.replace(exp.Literal.string(re.sub(r"\$(\d)", r"\\\1", escaped)))
    return None


def _cast(node: exp.Expr) -> exp.Expr | None:
    kind = node.args["to"]
    length = kind.expressions[0].name if kind.expressions else ""
    if kind.this in (exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPTZ):
        kind.set("expressions", None)  # otherwise a type of its own that loses digits
    elif kind.this == exp.DataType.Type.DECIMAL and not length:
        kind.replace(exp.DataType.build("DECIMAL(38, 0)"))
    elif kind.this == exp.DataType.Type.VARCHAR and length:
        text = type(node)(this=node.this, to=exp.DataType.build("VARCHAR"))
        return exp.func("left", text, exp.Literal.number(length))
    return None


def _entries(node: exp.Expr) -> exp.Expr | None:
    """Functions whose lambda has two parameters, as functions of one entry or pair."""
    match node.name.lower(), node.expressions:
        case "map_filter", [source, exp.Lambda() as body]:
            entries: exp.Expr = exp.func(
                "list_filter", _entry_list(source), _entry(body, "key", "value")
            )
        case "transform_values", [source, exp.Lambda() as body]:
            body = _entry(body, "key", "value")
            entries = _changed(source, body, "key", "value")
        case "transform_keys", [source, exp.Lambda() as body]:
            body = _entry(body, "key", "value")
            entries = _changed(source, body, "value", "key")
        case "zip_with", [left, right, exp.Lambda() as body]:
            pairs = exp.func("list_zip", left, right)
            return exp.func("list_transform", pairs, _entry(body, 0, 1))
        case _:
            return _call(node)
    return exp.func("map_from_entries", entries)


def _entry_list(source: exp.Expr) -> exp.Expr:
    return exp.Anonymous(this="map_entries", expressions=[source])


def _entry(body: exp.Lambda, *fields: str | int) -> exp.Lambda:
    """A lambda of one entry: its parameters become fields of it."""
    names = {
        parameter.name: field for parameter, field in zip(body.expressions, fields, strict=True)
    }
    body = body.copy()
    for node in list(body.this.find_all(exp.Column, exp.Identifier)):
        if node.name in names and not isinstance(node.parent, exp.Column):
            field = names[node.name]
            key = exp.Literal.number(field) if isinstance(field, int) else exp.Literal.string(field)
            part = exp.Bracket(this=exp.column("_entry"), expressions=[key])
            if node is body.this:
                body.set("this", part)
            else:
                node.replace(part)
    body.set("expressions", [exp.to_identifier("_entry")])
    return body


def _changed(source: exp.Expr, body: exp.Lambda, same: str, changed: str) -> exp.Expr:
    """The entries of a map with one field computed."""
    old = exp.Bracket(this=exp.column("_entry"), expressions=[exp.Literal.string(same)])
    values = {same: old, changed: body.this}
    struct = exp.Struct(
        expressions=[
            exp.PropertyEQ(this=exp.to_identifier(name), expression=values[name])
            for name in ("key", "value")
        ]
    )
    body.set("this", struct)
    return exp.func("list_transform", _entry_list(source), body)


def _unnest(node: exp.Expr) -> exp.Expr | None:
    """Several arrays, or a map, side by side: DuckDB's UNNEST takes one array."""
    alias, arrays = node.args.get("alias"), list(node.expressions)
    columns = list(alias.columns) if alias else []
    if node.args.get("offset"):
        return None
    if len(arrays) == 1 and len(columns) == 2:
        arrays = [exp.func("map_keys", arrays[0].copy()), exp.func("map_values", arrays[0])]
    if len(arrays) < 2:
        return None
    names = [column.name for column in columns] or [f"_col{index}" for index in range(len(arrays))]
    parts = [
        exp.alias_(exp.Anonymous(this="unnest", expressions=[array]), name, quoted=True)
        for array, name in zip(arrays, names, strict=True)
    ]
    subquery = exp.Subquery(this=exp.select(*parts))
    if isinstance(node.parent, exp.From):
        subquery.set("alias", alias)
        return subquery
    return exp.Lateral(this=subquery, alias=alias)


_RULES: Final[dict[type[exp.Expr], Callable[[exp.Expr], exp.Expr | None]]] = {
    exp.TimestampTrunc: _date_trunc,
    exp.DateTrunc: _date_trunc,
    exp.DateAdd: _date_add,
    exp.DateDiff: _date_diff,
    exp.Add: _sum,
    exp.Sub: _sum,
    exp.Extract: _extract,
    exp.RegexpReplace: _replace_groups,
    exp.Cast: _cast,
    exp.TryCast: _cast,
    exp.Anonymous: _entries,
    exp.Unnest: _unnest,
}
