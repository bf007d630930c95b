from __future__ import annotations

import gzip
import json
from typing import Any

import pytest

from tests.unit.tables.conftest import source
from tests.unit.tables.test_conversion import KEY, encrypted
from vistaflow_services.core.errors import InvalidError, NotFoundError
from vistaflow_services.tables import shopping
from vistaflow_services.tables.conversion import ConversionCanceled, Hooks
from vistaflow_services.tables.shopping import (
    ShoppingFields,
    ShoppingSummary,
    summarize_shopping,
)


def order(time: Any, *categories: tuple[Any, Any]) -> dict[str, Any]:
    items = [{"category": category, "sub_category": below} for category, below in categories]
    return {"ordered_at": time, "items": items}


def user(user_id: Any, proposal_id: Any, *orders: Any) -> dict[str, Any]:
    return {"user_id": user_id, "proposal_id": proposal_id, "shopping": {"orders": list(orders)}}


USERS = [
    user(
        "u1",
        1,
        order("2024-07-01", ("식품", "축산물")),
        order("2023-06-01", ("생활/건강", "생활용품")),
    ),
    user("u2", 1, order("2024-01-01", ("식품", "건강식품"))),
    user("u1", 2, order("2024-02-01", ("식품", "건강식품"))),
    user("u1", "1", order("2025-06-09", ("식품", "건강식품"), ("식품", "축산물"))),
]
EXPECTED = ShoppingSummary(
    months=("06", "07"), categories={"식품": ("축산물", "건강식품"), "생활/건강": ("생활용품",)}
)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(USERS).encode(),
        json.dumps(USERS, ensure_ascii=False, indent=1).encode(),
        b"\n".join(json.dumps(record).encode() for record in USERS),
        gzip.compress(json.dumps(USERS).encode()),
    ],
    ids=["array", "pretty", "ndjson", "gzip"],
)
@pytest.mark.parametrize("piece_bytes", [64, 1 << 20], ids=["small-pieces", "one-piece"])
def test_all_orders_of_the_user_and_proposal_are_summarized(
    monkeypatch: pytest.MonkeyPatch, content: bytes, piece_bytes: int
) -> None:
    monkeypatch.setattr(shopping, "PIECE_BYTES", piece_bytes)

    summary = summarize_shopping(source(content), user_id="u1", proposal_id="1")

    assert summary == EXPECTED
    assert list(summary.categories) == ["식품", "생활/건강"]


def test_an_encrypted_input_is_summarized() -> None:
    content = encrypted(json.dumps(USERS).encode())

    assert summarize_shopping(source(content, aes=KEY), user_id="u1", proposal_id="1") == EXPECTED


@pytest.mark.parametrize("proposal", [10**30, 18446744073709551616, 9007199254740993])
def test_a_long_number_is_an_id(proposal: int) -> None:
    content = json.dumps([user(7, proposal, order("2024-03-01"))]).encode()

    summary = summarize_shopping(source(content), user_id="7", proposal_id=str(proposal))

    assert summary == ShoppingSummary(months=("03",), categories={})


@pytest.mark.parametrize(
    "orders",
    [[None, 5, {}], [order(5, (None, 1), ("x", None))], [{"items": 5}], [order("soon")]],
)
def test_what_is_no_order_is_left_out(orders: list[Any]) -> None:
    content = json.dumps([user("u", "p", *orders)]).encode()

    assert summarize_shopping(source(content), user_id="u", proposal_id="p").months == ()


def test_the_fields_can_be_named() -> None:
    buys = [{"when": "2024-05-01", "what": [{"c": "x", "s": "y"}]}]
    content = json.dumps({"user_id": "u", "proposal_id": "p", "buys": buys}).encode()
    fields = ShoppingFields(
        orders=("buys",), ordered_at="when", items="what", category="c", sub_category="s"
    )

    summary = summarize_shopping(source(content), user_id="u", proposal_id="p", fields=fields)

    assert summary == ShoppingSummary(months=("05",), categories={"x": ("y",)})


def test_an_unknown_id_is_not_found() -> None:
    with pytest.raises(NotFoundError, match=r"input\.json has no record with this user_id"):
        summarize_shopping(source(json.dumps(USERS).encode()), user_id="u1", proposal_id="3")


@pytest.mark.parametrize("field", ["user_id", "proposal_id"])
def test_an_empty_id_is_refused_by_name(field: str) -> None:
    with pytest.raises(InvalidError) as refused:
        summarize_shopping(source(b""), **{"user_id": "u", "proposal_id": "p", field: ""})

    assert [violation.field for violation in refused.value.violations] == [field]


def test_text_of_another_user_that_is_not_utf_8_is_refused() -> None:
    content = b'{"user_id":"u2","proposal_id":1,"name":"\xff"}\n' + json.dumps(USERS[0]).encode()

    with pytest.raises(InvalidError, match=r"record 1, byte 40: invalid UTF-8"):
        summarize_shopping(source(content), user_id="u1", proposal_id="1")


def test_broken_input_is_refused_with_its_place() -> None:
    with pytest.raises(InvalidError, match="record 2, byte 13"):
        summarize_shopping(source(b'{"a":1}\n{"a":'), user_id="u", proposal_id="p")


def test_it_can_be_canceled() -> None:
    with pytest.raises(ConversionCanceled):
        summarize_shopping(
            source(json.dumps(USERS).encode()),
            user_id="u1",
            proposal_id="1",
            hooks=Hooks(canceled=lambda: True),
        )
