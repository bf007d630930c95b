"""Functions that are refused, and functions whose answer changes.

That no query reads a file, the network or a setting is held by the engine's process, which can do
neither. These lists make the error clear and early.
"""

from __future__ import annotations

from typing import Final

from sqlglot import exp

REFUSED: Final = frozenset(
    {
        "current_setting", "getvariable", "getenv", "setseed",
        "setval", "nextval", "currval", "write_log",
        "sleep_ms", "current_query", "current_query_id", "current_connection_id",
        "current_transaction_id", "txid_current", "in_search_path", "current_schemas",
        "current_database", "current_catalog", "stats", "vector_type",
        "json_execute_serialized_sql", "query", "query_table",
    }
)  # fmt: skip
"""Scalar functions by name: they read settings, write, wait, or execute a text."""

SERIES: Final = frozenset({"range", "generate_series"})
"""The only table functions: they make numbers."""

_VOLATILE_NAMES: Final = frozenset(
    {
        "now", "today", "random", "rand",
        "uuid", "uuidv4", "uuidv7", "gen_random_uuid",
        "shuffle", "get_current_time", "get_current_timestamp", "transaction_timestamp",
        "current_localtime", "current_localtimestamp", "age", "current_timezone",
        "current_user", "version", "random_string",
    }
)  # fmt: skip
_VOLATILE_NODES: Final = (
    exp.CurrentDate,
    exp.CurrentDatetime,
    exp.CurrentTime,
    exp.CurrentTimestamp,
    exp.CurrentTimestampLTZ,
    exp.CurrentUser,
    exp.Localtime,
    exp.Localtimestamp,
    exp.Rand,
    exp.Randn,
    exp.TableSample,
    exp.Uuid,
)


def called_name(node: exp.Expr) -> str:
    """The name of a function as SQL has it, in lower case."""
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        return node.name.lower()
    if isinstance(node, exp.Func):
        return node.sql_name().lower()
    return "tablesample" if isinstance(node, exp.TableSample) else node.key


def is_volatile(node: exp.Expr) -> bool:
    """Whether the same call may have another answer later."""
    if isinstance(node, _VOLATILE_NODES):
        return True
    return isinstance(node, exp.Func) and called_name(node) in _VOLATILE_NAMES
