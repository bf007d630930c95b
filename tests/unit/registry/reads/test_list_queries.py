"""The texts that list kits, jobs and rows: every variant is what its name says, or none is made."""

from __future__ import annotations

import itertools
import re

import pytest

from vistaflow_services.registry.database.queries import QUERIES, edited
from vistaflow_services.registry.reads import list_queries

BOTH = (False, True)


def every_text() -> list[str]:
    return [
        *(list_queries.kits(by_status=a, by_search=b) for a, b in itertools.product(BOTH, BOTH)),
        *(list_queries.jobs(by_kind=a, by_project=b) for a, b in itertools.product(BOTH, BOTH)),
        *(
            list_queries.states(dropped=a, by_kit=b, walked=c)
            for a, (b, c) in itertools.product(BOTH, ((False, False), (True, False), (True, True)))
        ),
    ]


def test_no_variant_leaves_a_placeholder_and_each_is_its_own() -> None:
    texts = every_text()
    for text in texts:
        assert not re.search(r"\b(some|recent|older)_(kits|jobs)\b", text)
    # Where both are asked for, the search decides.
    assert len(set(texts)) == len(texts) - 1


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("kits_wanted", "kit_id > %(after)s"),
        ("kits_wanted", "ORDER BY kit_id"),
        ("kits_wanted", list_queries._NAME),
        ("kits_wanted_by_search", "recent_kits"),
        ("kits_wanted_by_search", "older_kits"),
        ("kits_wanted_by_status", "some_kits"),
        ("list_kits", "some_kits"),
        ("jobs_wanted", list_queries._PROJECT),
        ("jobs_wanted", "WHERE first"),
        ("jobs_wanted_by_kind", "some_jobs"),
        ("list_jobs", "some_jobs"),
        ("list_states", "kit_id = ANY"),
        ("list_states", "ORDER BY id LIMIT"),
    ],
)
def test_a_query_that_was_changed_without_its_variants_makes_none(
    monkeypatch: pytest.MonkeyPatch, name: str, part: str
) -> None:
    changed = {**QUERIES, name: QUERIES[name].replace(part, "another")}
    assert changed[name] != QUERIES[name]
    monkeypatch.setattr(list_queries, "QUERIES", changed)
    with pytest.raises(ValueError, match="not once"):
        every_text()


@pytest.mark.parametrize("text", ["b", "a a"])
def test_a_part_that_a_query_has_not_exactly_once_is_not_replaced(text: str) -> None:
    with pytest.raises(ValueError, match="not once"):
        edited(text, "a", "c")  # type: ignore[arg-type]
