"""Months and categories of one user's purchases, from records of users of any number.

Only the ids of a record are decoded, unless they are the ones that are looked for; memory is
bounded by a piece of the input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from vistaflow_services.core.errors import NotFoundError, Violations
from vistaflow_services.tables.conversion import Hooks
from vistaflow_services.tables.literals import decode
from vistaflow_services.tables.pieces import Piece, Pieces
from vistaflow_services.tables.sources import PlainStream, Source

PIECE_BYTES = 8 << 20
MAX_ID_LENGTH = 1_000
MAX_CATEGORIES = 100_000
"""Most categories of a summary, with the ones below them."""


@dataclass(frozen=True, kw_only=True)
class ShoppingFields:
    """Where in a record the purchases are."""

    orders: tuple[str, ...] = ("shopping", "orders")
    """Keys from the record to the array of orders."""

    ordered_at: str = "ordered_at"
    """Key of an order's time, which begins `YYYY-MM`."""

    items: str = "items"
    category: str = "category"
    sub_category: str = "sub_category"


@dataclass(frozen=True, kw_only=True)
class ShoppingSummary:
    """What a user bought, and when."""

    months: tuple[str, ...]
    """Months with an order, `01` to `12`, ascending."""

    categories: dict[str, tuple[str, ...]]
    """For each category the ones below it, both in the order of the input."""


class _Ids(msgspec.Struct):
    user_id: Any = None
    proposal_id: Any = None


_ids = msgspec.json.Decoder(list[_Ids], float_hook=str).decode


def summarize_shopping(
    source: Source,
    *,
    user_id: str,
    proposal_id: str,
    fields: ShoppingFields | None = None,
    hooks: Hooks | None = None,
) -> ShoppingSummary:
    """The months and categories of a user's purchases under one proposal.

    Args:
        source: Records with `user_id` and `proposal_id`, texts or numbers.
        user_id: Which user.
        proposal_id: Which proposal.
        fields: Where the purchases are.
        hooks: How to stop; progress is not reported.

    Raises:
        InvalidError: An id is empty or too long, or the input is broken.
        NotFoundError: No record has these ids.
    """
    violations = Violations()
    for field, text in (("user_id", user_id), ("proposal_id", proposal_id)):
        if not 1 <= len(text) <= MAX_ID_LENGTH:
            violations.add(field, f"must have 1 to {MAX_ID_LENGTH:,} characters")
    violations.check()
    fields, hooks = fields or ShoppingFields(), hooks or Hooks()
    months: set[str] = set()
    categories: dict[str, dict[str, None]] = {}
    is_known = False
    with contextlib.closing(PlainStream(source)) as stream:
        pieces = Pieces(stream, start=0, in_array=False, first_record=1)
        while (piece := pieces.next(PIECE_BYTES, 0)) is not None:
            hooks.check()
            piece.check_utf8()
            for record in _matching(piece, user_id, proposal_id):
                is_known = True
                for order in _orders(record, fields.orders):
                    _add(order, fields, months, categories)
    if not is_known:
        raise NotFoundError(f"{source.name} has no record with this user_id and proposal_id")
    return ShoppingSummary(
        months=tuple(sorted(months)),
        categories={name: tuple(below) for name, below in categories.items()},
    )


def _matching(piece: Piece, user_id: str, proposal_id: str) -> Iterator[Any]:
    try:
        ids = _ids(piece.body)
    except msgspec.ValidationError:  # an element is no object, or a number is very long
        ids = None
    for position, record in enumerate(piece.records):
        if ids is not None:
            is_match = _text(ids[position].user_id) == user_id
            is_match = is_match and _text(ids[position].proposal_id) == proposal_id
            if not is_match:
                continue
        value = decode(bytes(record))
        if not isinstance(value, dict):
            raise piece.fault(position, "records must be JSON objects", "NOT_AN_OBJECT")
        if _text(value.get("user_id")) == user_id and (
            _text(value.get("proposal_id")) == proposal_id
        ):
            yield value


def _text(value: Any) -> str | None:
    is_id = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if is_id else None


def _orders(record: Any, path: Sequence[str]) -> list[Any]:
    value = record
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return [order for order in value if isinstance(order, dict)] if isinstance(value, list) else []


def _add(
    order: dict[str, Any],
    fields: ShoppingFields,
    months: set[str],
    categories: dict[str, dict[str, None]],
) -> None:
    time = order.get(fields.ordered_at)
    if isinstance(time, str) and time[4:5] == "-" and time[5:7].isdigit():
        months.add(time[5:7])
    items = order.get(fields.items)
    for item in items if isinstance(items, list) else ():
        category = item.get(fields.category) if isinstance(item, dict) else None
        if not isinstance(category, str) or len(categories) > MAX_CATEGORIES:
            continue
        below = categories.setdefault(category, {})
        sub_category = item.get(fields.sub_category)
        if isinstance(sub_category, str) and len(below) < MAX_CATEGORIES:
            below[sub_category] = None
