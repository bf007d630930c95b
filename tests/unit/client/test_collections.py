"""What a caller says of a collection, and what is sent for it."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format

from vistaflow.aio._data.collections import rows_message
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.errors import InvalidArgumentError


def test_columns_are_selectors_or_mappings_by_their_names() -> None:
    html = {
        "rows": "li",
        "columns": {"name": "a", "price": {"selector": "b", "type": "number", "optional": True}},
    }
    message = rows_message(ingestion_pb2.HtmlRows, html, "html")
    assert json_format.MessageToDict(message) == {
        "rows": "li",
        "columns": [
            {"name": "name", "selector": "a"},
            {"name": "price", "selector": "b", "type": "PAGE_VALUE_NUMBER", "optional": True},
        ],
    }


@pytest.mark.parametrize(
    ("html", "field"),
    [
        ("li", "html"),
        ({"row": "li"}, "html.row"),
        ({"rows": 3}, "html.rows"),
        ({"columns": ["a"]}, "html.columns"),
        ({"columns": {"a": 3}}, "html.columns[0].selector"),
        ({"columns": {"a": "b", "c": {"type": "money"}}}, "html.columns[1].type"),
        ({"columns": {"a": {"regex": "b"}}}, "html.columns[0].regex"),
        ({"columns": {3: "b"}}, "html.columns[0].name"),
    ],
)
def test_a_mistake_is_named_by_its_place(html: Any, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as raised:
        rows_message(ingestion_pb2.HtmlRows, html, "html")
    assert [violation.field for violation in raised.value.violations] == [field]
