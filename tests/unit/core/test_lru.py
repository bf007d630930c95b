"""A mapping of bounded size loses what was used longest ago, and nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vistaflow_services.core.lru import Lru


def letters(most: int, text: str) -> Lru[str, str]:
    """A mapping into which each letter of a text was put, with its capital as the value."""
    lru: Lru[str, str] = Lru(most)
    for letter in text:
        lru.put(letter, letter.upper())
    return lru


def test_the_entry_used_longest_ago_leaves_first() -> None:
    lru = letters(3, "abc")
    assert lru.get("a") == "A"
    lru.put("d", "D")
    assert list(lru) == ["c", "a", "d"]
    assert lru.get("b") is None
    assert "b" not in lru


def test_setting_a_value_again_counts_as_a_use_and_not_as_another_entry() -> None:
    lru = letters(3, "abca")
    assert (len(lru), lru.weight) == (3, 3)
    lru.put("d", "D")
    assert list(lru) == ["c", "a", "d"]
    lru.put("c", "other")
    assert list(lru.items()) == [("a", "A"), ("d", "D"), ("c", "other")]


def test_a_look_does_not_count_as_a_use() -> None:
    lru = letters(2, "ab")
    assert lru.peek("a") == "A"
    assert "a" in lru
    assert lru.peek("x") is None
    lru.put("c", "C")
    assert list(lru) == ["b", "c"]


def test_a_value_that_is_false_is_found_and_counts_as_used() -> None:
    lru: Lru[str, str] = Lru(2)
    lru.put("a", "")
    lru.put("b", "")
    assert lru.get("a") == ""
    lru.put("c", "")
    assert list(lru) == ["a", "c"]


def test_as_many_leave_as_a_heavy_entry_needs() -> None:
    lru: Lru[str, bytes] = Lru(10)
    for key, weight in (("a", 3), ("b", 3), ("c", 4), ("d", 5)):
        lru.put(key, b"", weight)
    assert list(lru) == ["c", "d"]
    assert (lru.weight, lru.weight_of("c"), lru.weight_of("a")) == (9, 4, 0)


def test_an_entry_heavier_than_the_bound_leaves_unless_one_entry_must_stay() -> None:
    strict: Lru[str, bytes] = Lru(10)
    strict.put("a", b"", 11)
    assert (len(strict), strict.weight) == (0, 0)
    lenient: Lru[str, bytes] = Lru(10, least=1)
    lenient.put("a", b"", 11)
    assert list(lenient) == ["a"]
    lenient.put("b", b"", 12)
    assert (list(lenient), lenient.weight) == (["b"], 12)


def test_entries_stay_until_the_trim_if_the_caller_says_so() -> None:
    lru = letters(2, "ab")
    lru.put("c", "C", trim=False)
    lru.put("d", "D", trim=False)
    assert (list(lru), lru.weight) == (["a", "b", "c", "d"], 4)
    lru.trim()
    assert (list(lru), lru.weight) == (["c", "d"], 2)
    lru.trim()
    assert list(lru) == ["c", "d"]


def test_an_entry_that_grew_counts_with_its_weight_and_keeps_its_place() -> None:
    lru = letters(3, "abc")
    lru.reweigh("b", 2)
    assert (list(lru), lru.weight) == (["a", "b", "c"], 4)
    lru.trim()
    assert (list(lru), lru.weight) == (["b", "c"], 3)


def test_a_smaller_bound_holds_from_the_next_trim_on() -> None:
    lru = letters(3, "abc")
    lru.most = 1
    lru.trim()
    assert list(lru) == ["c"]


def test_spared_entries_stay_and_the_next_leaves_in_their_place() -> None:
    held = {"A", "B"}
    lru: Lru[str, str] = Lru(2, spared=held.__contains__)
    for letter in "abcd":
        lru.put(letter, letter.upper())
    # Nothing but the new entry may leave, so it does not even stay for its own call.
    assert list(lru) == ["a", "b"]
    held.add("E")
    lru.put("e", "E")
    assert (list(lru), lru.weight) == (["a", "b", "e"], 3)
    held.clear()
    lru.put("f", "F")
    assert list(lru) == ["e", "f"]


def test_the_owner_learns_what_left_because_of_the_bound_and_only_that() -> None:
    left: list[tuple[str, str]] = []
    lru: Lru[str, str] = Lru(2, on_evict=lambda key, value: left.append((key, value)))
    for letter in "abca":
        lru.put(letter, letter.upper())
    assert left == [("a", "A"), ("b", "B")]
    assert lru.pop("c") == "C"
    lru.clear()
    assert len(left) == 2


def test_what_is_removed_weighs_nothing_any_more() -> None:
    lru: Lru[str, str] = Lru(10)
    lru.put("a", "A", 4)
    lru.put("b", "B", 5)
    assert lru.pop("a") == "A"
    assert lru.pop("a") is None
    assert (list(lru.values()), lru.weight, lru.weight_of("a")) == (["B"], 5, 0)
    lru.clear()
    assert (len(lru), lru.weight, lru.weight_of("b")) == (0, 0, 0)
    lru.put("b", "B", 2)
    assert lru.weight == 2


@given(
    most=st.integers(0, 12),
    least=st.integers(0, 2),
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "get", "pop"]), st.integers(0, 5), st.integers(0, 6)),
        max_size=40,
    ),
)
def test_it_is_a_list_in_order_of_use_cut_at_the_front(
    most: int, least: int, steps: list[tuple[str, int, int]]
) -> None:
    lru: Lru[int, int] = Lru(most, least=least)
    model: list[tuple[int, int]] = []  # Keys and weights, the one used last at the end.
    for step, key, weight in steps:
        before = [entry for entry in model if entry[0] == key]
        others = [entry for entry in model if entry[0] != key]
        if step == "put":
            lru.put(key, -key, weight)
            model = [*others, (key, weight)]
        elif step == "get":
            assert lru.get(key) == (-key if before else None)
            model = [*others, *before]
        else:
            lru.pop(key)
            model = others
        while sum(weight for _, weight in model) > most and len(model) > least:
            model.pop(0)
        assert [(key, lru.weight_of(key)) for key in lru] == model
        assert lru.weight == sum(weight for _, weight in model)
