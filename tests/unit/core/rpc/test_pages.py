"""Page tokens and sizes, as every list checks them."""

from __future__ import annotations

import pytest

from vistaflow.api.ingestion.v1.ingestion_pb2 import ListDecksRequest
from vistaflow.api.registry.v1.registry_pb2 import ListKitsRequest
from vistaflow_services.core.errors import Violations
from vistaflow_services.core.rpc import pages


def test_a_token_holds_a_text_or_numbers_and_belongs_to_its_filters() -> None:
    first, violations = ListDecksRequest(name_contains="a"), Violations()
    text, numbers = pages.encode_text("소자/1", first), pages.encode_keys((1, 2**63 - 1), first)
    second = ListDecksRequest(name_contains="a", page_size=3, page_token=text)
    assert pages.decode_text(second, violations) == "소자/1"
    second.page_token = numbers
    assert pages.decode_keys(second, 2, violations) == (1, 2**63 - 1)
    assert not violations
    second.name_contains = "b"
    assert pages.decode_keys(second, 2, violations) == ()
    assert [violation.description for violation in violations] == [
        "was given out for other filters; leave it empty to start"
    ]


@pytest.mark.parametrize("key", [b"", b"\xff" * 8, b"\x7f" + b"\xff" * 8])
def test_a_token_that_nobody_gave_out_is_refused(key: bytes) -> None:
    request, violations = ListDecksRequest(), Violations()
    request.page_token = pages._encode(key, request)
    assert (pages.decode(request, violations), pages.decode_text(request, violations)) == (None, "")
    assert [violation.field for violation in violations] == ["page_token"] * 2


def test_a_size_out_of_range_names_the_range_and_the_default() -> None:
    violations = Violations()
    assert pages.size(ListKitsRequest(), 100, 1_000, violations) == 100
    for count, default in ((1_001, 100), (-1, 0)):
        pages.size(ListKitsRequest(page_size=count), default, 1_000, violations)
    assert [violation.description for violation in violations] == [
        "is 1,001; give 1 to 1,000, or 0 for 100",
        "is -1; give 1 to 1,000, or 0 for as many as fit",
    ]
