"""Requests built of a caller's values; wrong types are errors that name the field."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from vistaflow.errors import FieldViolation, InvalidArgumentError, VistaError, invalid

Fields = ParamSpec("Fields")
MessageT = TypeVar("MessageT")
Value = TypeVar("Value")


def message_of(
    kind: Callable[Fields, MessageT], *arguments: Fields.args, **fields: Fields.kwargs
) -> MessageT:
    """A message with the values of a caller.

    Args:
        kind: The message's class.
        arguments: None; messages take fields only.
        fields: The values. Iterables must be sequences.

    Raises:
        InvalidArgumentError: `violations` names each field whose value is of a wrong type or out of
            range.
    """
    try:
        return kind(*arguments, **fields)
    except (TypeError, ValueError, AttributeError) as error:
        build: Any = kind
        violations = tuple(
            FieldViolation(field=name, description=description)
            for name, value in fields.items()
            if (description := _problem(build, name, value))
        )
        shown = "; ".join(f"{violation.field}: {violation.description}" for violation in violations)
        raise InvalidArgumentError(shown or str(error), violations=violations) from error


def _problem(kind: Callable[..., Any], name: str, value: Any) -> str:
    """Why a value is not one for a field; empty if it is."""
    try:
        kind(**{name: value})
    except UnicodeEncodeError:
        return f"{value!a} is not text: it has characters that are not valid Unicode"
    except (TypeError, ValueError, AttributeError):
        shown = repr(value)
        shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
        kind_of_value = type(value).__name__
        return f"{shown} ({kind_of_value}) is of a wrong type or out of range"
    return ""


def set_time(field: Timestamp, moment: datetime | None, name: str) -> None:
    """Sets a time of a request, unless it is None.

    Args:
        field: The time in the request.
        moment: The time; without a zone it is one of the local zone.
        name: Its name for the caller.

    Raises:
        InvalidArgumentError: It is not a `datetime`, or beyond the years of a timestamp.
    """
    if moment is None:
        return
    try:
        field.FromDatetime(moment.astimezone(UTC))
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise invalid(name, f"{moment!r} is not a datetime of the years 1 to 9999") from None


def set_span(field: Duration, span: timedelta | None, name: str) -> None:
    """Sets a span of a request, unless it is None.

    Raises:
        InvalidArgumentError: It is not a `timedelta`.
    """
    if span is not None and not isinstance(span, timedelta):
        raise invalid(name, f"is {span!r}; give a datetime.timedelta")
    if span is not None:
        field.FromTimedelta(span)


def page_size(limit: int, most: int) -> int:
    """The results to ask for at once, of those that a caller wants; 0: all."""
    if not is_number(limit) or limit < 0:
        raise invalid("limit", f"is {limit!r}; give a number from 0 on")
    return int(min(limit or most, most))


def listed(values: Iterable[Value], name: str) -> list[Value]:
    """The values of an iterable; a single text is a mistake.

    Raises:
        InvalidArgumentError: They are a text, or nothing that can be iterated over.
    """
    if not isinstance(values, str | bytes):
        try:
            return list(values)
        except VistaError:
            raise
        except TypeError:
            pass
    raise invalid(name, f"{values!r} is not a list")


def is_number(value: Any) -> bool:
    """Whether a value is a number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)
