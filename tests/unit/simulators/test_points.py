from __future__ import annotations

import json
import pickle
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.deck import Deck, Response
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.simulators import Failure, Outcome, points
from vistaflow_services.simulators.canonical import canonical_points
from vistaflow_services.simulators.function_simulator import VERSION
from vistaflow_services.simulators.locks import locked
from vistaflow_services.simulators.points import PointStore, point_key
from vistaflow_services.simulators.run_files import RunFile, packed

SPACE = Space(
    parameters=(
        Parameter(name="x1", low=0.0, high=10.0),
        Parameter(name="x2", low=1e-12, high=1e-3, scale=Scale.LOG),
        Parameter(name="n", kind=Kind.INTEGER, low=1, high=9),
    )
)
DECK = Deck(
    name="d",
    simulator="function",
    function="branin",
    space=SPACE,
    responses=(Response(name="y"),),
)
POINT = {"x1": 0.1, "x2": 3e-9, "n": 2}


def outcome(**changes: object) -> Outcome:
    return replace(Outcome(point=dict(POINT), responses={"y": 1.5}, seconds=0.25), **changes)  # type: ignore[arg-type]


@pytest.fixture
def circuit(monkeypatch: pytest.MonkeyPatch) -> Deck:
    """A deck of a simulator that is a program, whether this machine has it or not."""
    monkeypatch.setattr(points, "deck_version", lambda deck: "39")
    return replace(DECK, simulator="ngspice", function="", files={}, templates=())


def test_a_kept_outcome_is_found_by_another_store_and_says_so(tmp_path: Path) -> None:
    PointStore(tmp_path).put(DECK, outcome())
    assert PointStore(tmp_path).get(DECK, POINT) == outcome(cached=True)


def test_the_same_point_written_otherwise_is_the_same_point(tmp_path: Path) -> None:
    PointStore(tmp_path).put(DECK, outcome())
    rewritten = {"n": 2.0, "x2": 3e-9 * (1 + 1e-15), "x1": 0.1 + 1e-17}
    assert PointStore(tmp_path).get(DECK, rewritten) == outcome(cached=True)


def test_that_a_point_is_infeasible_is_stored(tmp_path: Path) -> None:
    store = PointStore(tmp_path)
    infeasible = outcome(responses={}, failure=Failure.INFEASIBLE, message="no such device")
    store.put(DECK, infeasible)
    assert store.get(DECK, POINT) == replace(infeasible, cached=True)


UNCONVERGED = outcome(responses={}, failure=Failure.NO_CONVERGENCE, message="gave up at 0.3 V")


def test_that_a_point_does_not_converge_is_reused_once_a_second_run_confirmed_it(
    tmp_path: Path, circuit: Deck
) -> None:
    PointStore(tmp_path).put(circuit, UNCONVERGED)
    once = PointStore(tmp_path).get(circuit, POINT)
    PointStore(tmp_path).put(circuit, outcome(responses={}, failure=Failure.TIMEOUT))
    PointStore(tmp_path).put(circuit, UNCONVERGED)
    assert (once, PointStore(tmp_path).get(circuit, POINT)) == (
        None,
        replace(UNCONVERGED, cached=True),
    )


def test_a_point_that_converges_at_the_second_run_has_its_responses(
    tmp_path: Path, circuit: Deck
) -> None:
    store = PointStore(tmp_path)
    for each in (UNCONVERGED, outcome(), UNCONVERGED):
        store.put(circuit, each)
    unconfirmed = store.get(circuit, POINT)
    store.put(circuit, outcome())
    assert (unconfirmed, store.get(circuit, POINT)) == (None, outcome(cached=True))


def test_that_a_point_does_not_converge_was_stored_by_an_earlier_release_as_one_run(
    tmp_path: Path, circuit: Deck
) -> None:
    key = point_key(POINT)
    path = tmp_path / circuit.digest / "ngspice-39" / "points" / key[:2] / f"{key}.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(UNCONVERGED.to_dict()))
    store = PointStore(tmp_path)
    before = store.get(circuit, POINT)
    store.put(circuit, UNCONVERGED)
    assert (before, store.get(circuit, POINT)) == (None, replace(UNCONVERGED, cached=True))


def test_that_a_function_is_not_finite_is_stored_at_once(tmp_path: Path) -> None:
    PointStore(tmp_path).put_many(DECK, {point_key(POINT): UNCONVERGED})
    assert PointStore(tmp_path).get(DECK, POINT) == replace(UNCONVERGED, cached=True)


@pytest.mark.parametrize("failure", [Failure.TIMEOUT, Failure.CRASHED, Failure.LICENSE])
def test_a_failure_that_the_machine_may_be_to_blame_for_is_not_stored(
    tmp_path: Path, failure: Failure
) -> None:
    store = PointStore(tmp_path)
    store.put(DECK, outcome(responses={}, failure=failure))
    store.put_many(DECK, {point_key(POINT): outcome(responses={}, failure=failure)})
    assert (store.get(DECK, POINT), list(tmp_path.rglob("*.json*"))) == (None, [])


def test_of_what_an_earlier_release_stored_good_points_count_and_failures_of_the_machine_do_not(
    tmp_path: Path,
) -> None:
    folder = tmp_path / DECK.digest / f"function-{VERSION}" / "points"
    outcomes = [
        outcome(point={**POINT, "n": 1}),
        outcome(point={**POINT, "n": 2}, responses={}, failure=Failure.TIMEOUT),
        outcome(point={**POINT, "n": 3}, responses={}, failure=Failure.CRASHED),
        outcome(point={**POINT, "n": 4}, responses={}, failure=Failure.INFEASIBLE),
    ]
    for each in outcomes:
        key = point_key(each.point)
        path = folder / key[:2] / f"{key}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each.to_dict()))
    store = PointStore(tmp_path)
    assert [store.get(DECK, each.point) for each in outcomes] == [
        replace(outcomes[0], cached=True),
        None,
        None,
        replace(outcomes[3], cached=True),
    ]


def test_a_deck_with_another_timeout_ranges_or_description_has_the_same_points(
    tmp_path: Path,
) -> None:
    store = PointStore(tmp_path)
    store.put(DECK, outcome())
    narrowed = DECK.space.narrow({"x1": {"high": 5.0}})
    changed = replace(DECK, timeout_seconds=9.0, description="changed", space=narrowed)
    assert (changed.digest != DECK.digest, store.get(changed, POINT)) == (
        True,
        outcome(cached=True),
    )


def test_a_stored_point_is_held_against_the_physical_ranges_of_the_deck(tmp_path: Path) -> None:
    store = PointStore(tmp_path)
    narrow = replace(DECK, responses=(Response(name="y", high=1.0),))
    store.put(DECK, outcome())
    found = store.get(narrow, POINT)
    assert found is not None
    assert (found.failure, found.cached) == (Failure.INFEASIBLE, True)
    other = {**POINT, "n": 3}
    store.put(narrow, outcome(point=other, responses={}, failure=Failure.INFEASIBLE))
    assert (store.get(DECK, other), store.get(narrow, other)) == (
        None,
        outcome(point=other, responses={}, failure=Failure.INFEASIBLE, cached=True),
    )


def test_another_deck_does_not_see_it(tmp_path: Path) -> None:
    store = PointStore(tmp_path)
    store.put(DECK, outcome())
    assert store.get(replace(DECK, function="booth"), POINT) is None


def test_a_damaged_file_counts_as_absent(tmp_path: Path) -> None:
    store = PointStore(tmp_path)
    store.put(DECK, outcome())
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(file.read_bytes()[:40])
    assert store.get(DECK, POINT) is None
    file.write_bytes(b"\xff\x00[]")
    assert store.get(DECK, POINT) is None


def test_a_torn_tail_of_a_chunk_loses_only_itself(tmp_path: Path) -> None:
    five = canonical_points(SPACE, [{**POINT, "n": n} for n in range(1, 6)])
    PointStore(tmp_path).put_many(DECK, {point_key(each): outcome(point=each) for each in five})
    (file,) = tmp_path.rglob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-30])
    found = PointStore(tmp_path).get_many(DECK, {point_key(each): each for each in five})
    assert set(found) == {point_key(each) for each in five[:4]}


def test_a_point_of_a_damaged_chunk_is_that_of_a_later_run(tmp_path: Path, circuit: Deck) -> None:
    store = PointStore(tmp_path)
    store.put_many(circuit, {point_key(POINT): outcome(log="printed " * 100)})
    assert PointStore(tmp_path).get(circuit, POINT) == outcome(cached=True, log="printed " * 100)
    (chunk,) = tmp_path.rglob("*.jsonl")
    for damaged in (chunk.read_bytes().replace(b'"responses"', b'"respons'), b""):
        reader = PointStore(tmp_path)
        assert reader.count(circuit) > 0
        chunk.write_bytes(damaged)
        assert reader.get(circuit, POINT) is None
        PointStore(tmp_path).put(circuit, outcome(seconds=3.0))
        assert reader.get(circuit, POINT) == outcome(cached=True, seconds=3.0)
        for file in tmp_path.rglob("*.json"):
            file.unlink()


def test_what_runs_printed_is_not_held_in_memory(tmp_path: Path, circuit: Deck) -> None:
    store = PointStore(tmp_path)
    many = [{**POINT, "n": n} for n in range(1, 10)]
    store.put_many(
        circuit, {point_key(point): outcome(point=point, log=f"{'x' * 5000}") for point in many}
    )
    assert store.count(circuit) == len(many)
    assert sum(map(sys.getsizeof, store._chunks[next(iter(store._chunks))].values())) < 2000
    assert len(store.get_many(circuit, {point_key(point): point for point in many})) == len(many)
    assert len(list(store.outcomes(circuit))) == len(many)
    assert store.run_seconds(circuit) == [0.25] * len(many)
    assert store.get(circuit, many[4]).log == "x" * 5000  # type: ignore[union-attr]


def test_points_kept_by_another_process_after_the_first_look_are_found(tmp_path: Path) -> None:
    here, there = PointStore(tmp_path), PointStore(tmp_path)
    assert here.get(DECK, POINT) is None
    there.put_many(DECK, {point_key(POINT): outcome()})
    assert here.get(DECK, POINT) == outcome(cached=True)
    assert (here.count(DECK), pickle.loads(pickle.dumps(here)).count(DECK)) == (1, 1)


def test_nothing_unfinished_is_left_behind(tmp_path: Path) -> None:
    store = PointStore(tmp_path)
    store.put(DECK, outcome())
    other = {**POINT, "n": 5}
    store.put_many(DECK, {point_key(other): outcome(point=other)})
    files = sorted(each.suffix for each in tmp_path.rglob("*") if each.is_file())
    assert files == [".json", ".jsonl"]


def test_canonical_points_agree_with_the_space_one_by_one() -> None:
    rows = SPACE.decode(np.random.default_rng(0).random((500, 3)))
    assert canonical_points(SPACE, rows) == [SPACE.check(each) for each in rows]
    kinds = {name: type(value) for name, value in canonical_points(SPACE, rows)[0].items()}
    assert kinds == {"x1": float, "x2": float, "n": int}


@pytest.mark.parametrize(
    ("point", "field"),
    [
        ({**POINT, "x1": 11.0}, "points[1].x1"),
        ({**POINT, "x1": float("nan")}, "points[1].x1"),
        ({**POINT, "n": 2.5}, "points[1].n"),
        ({**POINT, "n": True}, "points[1].n"),
        ({**POINT, "x1": "0.1"}, "points[1].x1"),
        ({**POINT, "more": 1.0}, "points[1].more"),
        ({"x1": 0.1, "x2": 3e-9}, "points[1].n"),
    ],
)
def test_a_point_outside_the_space_is_told_by_index_and_name(
    point: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        canonical_points(SPACE, [POINT, point])
    assert [each.field for each in caught.value.violations] == [field]


def test_a_lock_is_held_by_one_thread_at_a_time_and_leaves_no_file(tmp_path: Path) -> None:
    inside, most, path = 0, 0, tmp_path / "lock"
    guard = threading.Lock()

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with locked(path) as mine:
                assert mine
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert (most, path.exists()) == (1, False)


def test_waiting_for_a_lock_can_be_given_up(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), locked(tmp_path / "lock", lambda: True) as mine:
        assert not mine


WRITTEN = [
    RunFile(path="profile.csv", content=b"x,n\n0,1\n", input=False, truncated=False),
    RunFile(path="out/mesh.bin", content=b"\0\1\2", input=False, truncated=True),
]


def test_output_and_files_of_a_run_are_read_with_its_point_and_not_with_many(
    tmp_path: Path, circuit: Deck
) -> None:
    store = PointStore(tmp_path)
    printed = outcome(log="step 1\nstep 2")
    store.put(circuit, printed, WRITTEN)
    assert store.get(circuit, POINT) == replace(printed, cached=True)
    assert PointStore(tmp_path).files(circuit, POINT) == WRITTEN
    key = point_key(POINT)
    assert store.get_many(circuit, {key: dict(POINT)}) == {key: outcome(cached=True)}
    assert store.files(circuit, {**POINT, "n": 3}) == []


def test_files_beyond_what_a_deck_may_take_are_left_out(
    tmp_path: Path, circuit: Deck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(points, "MOST_FILE_BYTES", len(packed(WRITTEN)) * 3 // 2)
    for number in range(1, 6):
        point = {**POINT, "n": number}
        # Each time another store: what other processes wrote counts, too.
        PointStore(tmp_path).put(circuit, outcome(point=point), WRITTEN)
        assert PointStore(tmp_path).get(circuit, point) is not None
    stored = [number for number in range(1, 6) if store_has_files(tmp_path, circuit, number)]
    assert stored == [1]


def store_has_files(root: Path, deck: Deck, number: int) -> bool:
    return bool(PointStore(root).files(deck, {**POINT, "n": number}))


def test_a_damaged_archive_has_no_files(tmp_path: Path, circuit: Deck) -> None:
    store = PointStore(tmp_path)
    store.put(circuit, outcome(), WRITTEN)
    (archive,) = tmp_path.rglob("*.zip")
    archive.write_bytes(archive.read_bytes()[:20])
    assert store.files(circuit, POINT) == []
