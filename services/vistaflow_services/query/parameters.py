"""Named parameters with types, bound as literals in the tree and never pasted into the text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from sqlglot import exp

from vistaflow_services.core.errors import cut, field_error

MAX_PARAMETERS = 100
MAX_TEXT_CHARACTERS = 100_000


class ParameterType(StrEnum):
    """What a parameter is."""

    TEXT = "text"
    WHOLE = "whole"
    NUMBER = "number"
    FLAG = "flag"
    DATE = "date"
    TIMESTAMP = "timestamp"
    NULL = "null"


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """The value of a parameter.

    `WHOLE` has an int of 64 bits, `NUMBER` a finite float, `FLAG` a bool, `DATE` a date,
    `TIMESTAMP` a datetime (with a zone it is an instant, without one a local time), `NULL` None.
    """

    type: ParameterType
    value: str | int | float | bool | date | datetime | None


def literal(name: str, parameter: Parameter) -> exp.Expr:
    """The value as a node of a tree.

    Raises:
        InvalidError: The value is not of the type; names the field `parameters.NAME`.
    """
    field, value = f"parameters.{cut(name, 60)}", parameter.value
    match parameter.type, value:
        case ParameterType.NULL, None:
            return exp.null()
        case ParameterType.FLAG, bool():
            return exp.convert(value)
        case ParameterType.TEXT, str():
            if len(value) > MAX_TEXT_CHARACTERS or "\0" in value:
                raise field_error(
                    field, f"has a zero byte or over {MAX_TEXT_CHARACTERS:,} characters"
                )
            return exp.Literal.string(value)
        case ParameterType.WHOLE, int() if not isinstance(value, bool):
            if not -(1 << 63) <= value < 1 << 63:
                raise field_error(field, "does not fit 64 bits; send it as text and cast it")
            return exp.cast(exp.Literal.string(str(value)), "BIGINT")
        case ParameterType.NUMBER, int() | float() if not isinstance(value, bool):
            if not math.isfinite(value):
                raise field_error(field, f"is {value}; it must be finite")
            # As a text, because a bare 0.1 is a decimal in SQL.
            return exp.cast(exp.Literal.string(repr(float(value))), "DOUBLE")
        case ParameterType.TIMESTAMP, datetime():
            if value.tzinfo is None:
                kind, text = "TIMESTAMP(6)", value.isoformat(sep=" ", timespec="microseconds")
            else:
                kind = "TIMESTAMPTZ(6)"
                text = value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f UTC")
            return exp.cast(exp.Literal.string(text), kind)
        case ParameterType.DATE, date() if not isinstance(value, datetime):
            return exp.cast(exp.Literal.string(value.isoformat()), "DATE")
    raise field_error(field, f"is {type(value).__name__}, which is no {parameter.type} value")
