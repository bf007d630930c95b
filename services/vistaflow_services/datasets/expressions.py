"""The SQL expressions that callers may write: in rules, in `best by` and in filters.

An expression is one value computed from the columns of one row. It is parsed, every node is
looked up in a list of what is allowed, and SQL is rendered from the tree: what runs is what was
checked. There are no statements, subqueries, tables, aggregates, parameters, settings or functions
that read files, the clock or the environment, and none that make large values of small ones.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect as SqlglotDialect
from sqlglot.errors import SqlglotError
from sqlglot.parser import Parser
from sqlglot.tokenizer_core import Token, TokenType

from vistaflow_services.core.errors import cut, field_error
from vistaflow_services.datasets.manifest import Column, find_column

MAX_LENGTH = 4_000
"""Most characters of an expression."""

MAX_NODES = 500
"""Most nodes of its tree."""

MAX_NESTING = 50
"""Most open parentheses at one place: the parser recurses."""

MAX_TYPE_NESTING = 8
"""Most of them after names of types: there the parser tries two readings, so its time doubles with
each."""

ALLOWED: frozenset[type[exp.Expr]] = frozenset(
    {
        exp.Column, exp.Identifier, exp.Literal, exp.Boolean, exp.Null, exp.Paren, exp.Tuple,
        exp.And, exp.Or, exp.Not, exp.Neg,
        exp.EQ, exp.NEQ, exp.GT, exp.GTE, exp.LT, exp.LTE, exp.Is, exp.NullSafeEQ,
        exp.NullSafeNEQ, exp.Between, exp.In, exp.Like, exp.ILike, exp.Escape,
        exp.Add, exp.Sub, exp.Mul, exp.Div, exp.IntDiv, exp.Mod, exp.DPipe,
        exp.Case, exp.If, exp.Coalesce, exp.Nullif, exp.Greatest, exp.Least,
        exp.Cast, exp.TryCast, exp.DataType, exp.DataTypeParam,
        exp.Abs, exp.Round, exp.Floor, exp.Ceil, exp.Sqrt, exp.Ln, exp.Log, exp.Exp, exp.Pow,
        exp.Sign, exp.IsNan, exp.IsInf,
        exp.Length, exp.Lower, exp.Upper, exp.Trim, exp.Substring, exp.Left, exp.Right,
        exp.StrPosition, exp.StartsWith, exp.EndsWith, exp.Contains,
        exp.RegexpLike, exp.RegexpFullMatch,
        exp.Extract, exp.Year, exp.Month, exp.Day, exp.Var,
    }
)  # fmt: skip
"""Nodes that an expression may consist of; subclasses are not implied."""

TYPES = frozenset(
    {
        exp.DataType.Type.BOOLEAN,
        exp.DataType.Type.TINYINT,
        exp.DataType.Type.SMALLINT,
        exp.DataType.Type.INT,
        exp.DataType.Type.BIGINT,
        exp.DataType.Type.FLOAT,
        exp.DataType.Type.DOUBLE,
        exp.DataType.Type.DECIMAL,
        exp.DataType.Type.TEXT,
        exp.DataType.Type.VARCHAR,
        exp.DataType.Type.DATE,
        exp.DataType.Type.TIMESTAMP,
        exp.DataType.Type.TIMESTAMPNTZ,
    }
)
"""Types that a value may be cast to."""

_OPENING = (TokenType.L_PAREN, TokenType.L_BRACKET, TokenType.L_BRACE)
_CLOSING = (TokenType.R_PAREN, TokenType.R_BRACKET, TokenType.R_BRACE)


def too_deep(tokens: Iterable[Token], most: int) -> Token | None:
    """The first word that opens a parenthesis within too many others.

    Args:
        tokens: The words of a text, before they are parsed.
        most: How many parentheses, brackets and braces may be open at one place. Of those after
            ARRAY, ROW and other names of types only `MAX_TYPE_NESTING` may.
    """
    open_types: list[bool] = []
    before: TokenType | None = None
    for token in tokens:
        if token.token_type in _OPENING:
            open_types.append(before in Parser.TYPE_TOKENS)
            if len(open_types) > most or sum(open_types) > MAX_TYPE_NESTING:
                return token
        elif token.token_type in _CLOSING and open_types:
            open_types.pop()
        before = token.token_type
    return None


def safe_sql(text: str, columns: Iterable[Column], field: str) -> str:
    """An expression as SQL for DuckDB, with its columns quoted.

    Args:
        text: As the caller wrote it.
        columns: What it may refer to.
        field: Where it is in the request, for messages.

    Raises:
        InvalidError: It is not one expression of what is allowed.
    """
    tree = _parsed(text, field)
    known = tuple(columns)
    for count, node in enumerate(tree.walk(), start=1):
        if count > MAX_NODES:
            raise field_error(field, f"has more than {MAX_NODES} parts; write several rules")
        if type(node) not in ALLOWED:
            raise field_error(field, f"contains {_description(node)}, which is not allowed")
        if isinstance(node, exp.DataType) and node.this not in TYPES:
            raise field_error(field, f"casts to {_description(node)}, which is not allowed")
        if isinstance(node, exp.In) and (node.args.get("query") or node.args.get("unnest")):
            raise field_error(field, "contains IN with a query; list the values")
        if isinstance(node, exp.Column):
            name = node.name if len(node.parts) == 1 else node.sql()
            node.set("this", exp.to_identifier(find_column(known, name, field).name, quoted=True))
    return tree.sql(dialect="duckdb", comments=False)


def column_names(text: str, field: str) -> set[str]:
    """The names of the columns that an expression refers to.

    Raises:
        InvalidError: It is not one expression.
    """
    return {node.name for node in _parsed(text, field).find_all(exp.Column)}


def _parsed(text: str, field: str) -> exp.Expr:
    if not isinstance(text, str) or not text.strip():
        raise field_error(field, "is empty; write an expression such as `price > 0`")
    if len(text) > MAX_LENGTH:
        raise field_error(field, f"has {len(text)} characters; at most {MAX_LENGTH} are allowed")
    grammar = SqlglotDialect.get_or_raise("duckdb")
    try:
        tokens = grammar.tokenize(text)
        if too_deep(tokens, MAX_NESTING):
            raise field_error(field, f"has more than {MAX_NESTING} nested parentheses")
        trees = grammar.parser().parse(tokens, text)
    except (SqlglotError, RecursionError) as error:
        raise field_error(field, f"is not an expression{_place(error)}") from None
    if len(trees) != 1 or trees[0] is None:
        raise field_error(field, "is not one expression; remove the semicolon and what follows")
    return trees[0]


def _place(error: Exception) -> str:
    details = getattr(error, "errors", None)
    if details and details[0].get("line"):
        return f": look at line {details[0]['line']}, character {details[0]['col']}"
    return ": check its quotes and parentheses"


def _description(node: exp.Expr) -> str:
    name = node.name if isinstance(node, exp.Anonymous) else type(node).__name__
    return f"`{cut(name, 60)}`"
