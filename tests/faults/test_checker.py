"""The checker says nothing of a history that keeps every promise, and sees each one broken."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checker import check
from tests.faults.history import digest

Histories = dict[str, list[dict[str, Any]]]


def row(revision: int, batch: int, seq: int, task: str = "t", **other: Any) -> dict[str, Any]:
    """A stored row of the one job there is."""
    made = {"revision": revision, "batch": batch, "kit": 1, "job": "j", "job_type": "DOE"}
    made |= {"task": task, "status": "RUNNING", "attempt": 1, "seq": seq}
    return made | other


def key(stored: dict[str, Any]) -> list[Any]:
    return [stored[name] for name in ("job", "attempt", "seq", "task", "status")]


def message(
    rows: list[dict[str, Any]], revision: int, left: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    told = [[[each["revision"], key(each)] for each in some] for some in (rows, left)]
    made = {"op": "message", "kind": "delta", "revision": revision, "end": 1.0}
    return made | {"rows": told[0], "left": told[1]}


def append(rows: list[dict[str, Any]], start: float, **other: Any) -> dict[str, Any]:
    results = [["ACCEPTED", each["revision"]] for each in rows]
    made = {"op": "append", "rows": [key(each) for each in rows], "results": results}
    return made | {"start": start, "end": start + 0.1, "outcome": "answered"} | other


QUEUED = row(1, 1, 0, "", status="QUEUED", attempt=0)
STARTED = row(2, 2, 0, "")
FILTER = {"statuses": ["QUEUED"], "labels": {"side": "even"}}
ROWS = [QUEUED, STARTED, row(3, 3, 2), row(4, 3, 3), row(5, 5, 4)]


def good() -> Histories:
    """A small history in which all is well."""
    return {
        "stored": copy.deepcopy(ROWS),
        "kits": [{"kit_id": 1, "name": "a kit", "labels": {"side": "even", "a": "b"}}],
        "writer": [
            append([ROWS[1]], 1.0, request="r"),
            append(ROWS[2:4], 2.0),
            append([ROWS[4]], 3.0),
            append([ROWS[1]], 1.0, request="r"),
        ],
        "requester": [
            {
                "op": "create",
                "name": "a kit",
                "outcome": "answered",
                "kit_id": 1,
                "revision": 1,
                "start": 0.5,
                "end": 0.6,
            }
        ],
        "reader": [
            {
                "op": "get",
                "min_revision": 2,
                "revision": 3,
                "outcome": "answered",
                "jobs": {"j": ["RUNNING", 1, digest([("t", 3)])]},
                "kit": 1,
                "as_of": 0,
                "start": 2.5,
                "end": 2.6,
            },
            {
                "op": "list",
                "filter": {"kit_ids": [1]},
                "after": 1,
                "min_revision": 0,
                "revision": 5,
                "all": True,
                "outcome": "answered",
                "rows": [[each["revision"], key(each)] for each in ROWS[1:]],
                "start": 2.5,
                "end": 2.6,
            },
        ],
        "follower": [
            {"op": "watch", "filter": FILTER, "after": 0, "include_left": True, "end": 0.0},
            message(ROWS[:1], 1),
            message([], 2, left=ROWS[1:2]),
            message([], 5),
        ],
        "hopper": [
            {"op": "hop", "after": 3, "end": 2.0},
            {**message(ROWS[3:4], 4), "op": "hopped"},
            {**message(ROWS[4:], 5), "op": "hopped"},
            {"op": "hop", "after": 9, "end": 2.0},
            {"op": "unhopped", "after": 9, "start": 3.5, "code": "OUT_OF_RANGE", "end": 4.0},
        ],
        "watcher": [
            {"op": "watch", "after": 0, "filter": {}, "end": 0.0},
            message(ROWS[:2], 2),
            message(ROWS[2:4], 4),
            message(ROWS[4:], 5),
            {"op": "caught_up", "revision": 5, "end": 2.0},
        ],
        "worker": [
            {"op": "grant", "job": "k", "attempt": 1, "client": "worker", "end": 1.0},
            {"op": "grant", "job": "k", "attempt": 2, "client": "worker", "end": 1.0},
        ],
        "nemesis": [{"op": "fault", "kind": "kill", "start": 1.5, "end": 1.9}],
    }


def judged(histories: Histories, folder: Path) -> dict[str, list[str]]:
    for name, records in histories.items():
        for record in records:
            record.setdefault("client", name)
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{name}.jsonl").write_text(text)
    return check(folder, recovery_seconds=1.0, lag_seconds=9.0)


def lose_a_row(h: Histories) -> None:
    del h["watcher"][3]
    h["watcher"].insert(3, message([], 5))


def swap(h: Histories) -> None:
    h["watcher"][1]["rows"].reverse()


def split(h: Histories) -> None:
    h["watcher"][2:3] = [message(ROWS[2:3], 3), message(ROWS[3:4], 4)]


def repeat(h: Histories) -> None:
    h["watcher"].insert(2, message(ROWS[1:2], 2))


def early_bookmark(h: Histories) -> None:
    h["watcher"].insert(1, {**message([], 4), "kind": "bookmark"})


def wrong_resume(h: Histories) -> None:
    h["watcher"].insert(2, {**message([], 1), "kind": "resume"})


def unwanted(h: Histories) -> None:
    h["watcher"][0]["filter"] = {"statuses": ["QUEUED"]}


def stay_behind(h: Histories) -> None:
    del h["watcher"][3:]
    h["watcher"].append({"op": "left_behind", "revision": 4, "end": 9.0})


def forget(h: Histories) -> None:
    del h["stored"][4]
    del h["watcher"][3]


def store_another(h: Histories) -> None:
    h["stored"][4]["seq"] = 9
    h["watcher"][3] = message(h["stored"][4:], 5)


def store_twice(h: Histories) -> None:
    h["stored"][4]["seq"] = 3
    h["watcher"][3] = message(h["stored"][4:], 5)
    h["writer"].pop()


def store_refused(h: Histories) -> None:
    h["writer"][2]["results"] = [["REJECTED", 0]]


def go_back_in_time(h: Histories) -> None:
    h["writer"][0]["start"] = 5.0
    h["writer"][0]["end"] = 5.1


def leave_a_gap(h: Histories) -> None:
    h["stored"][4]["revision"] = 6


def finish_twice(h: Histories) -> None:
    done = [row(6, 6, 0, "", status="FINISHED"), row(7, 7, 0, "", status="FAILED")]
    h["stored"] += done
    h["watcher"].insert(4, message(done, 7))


def old_attempt(h: Histories) -> None:
    late = row(6, 6, 7, "", status="FINISHED", attempt=0)
    h["stored"].append(late)
    h["watcher"].insert(4, message([late], 6))


def grant_twice(h: Histories) -> None:
    h["worker"][1] |= {"attempt": 1, "client": "another"}


def make_twice(h: Histories) -> None:
    h["kits"].append({"kit_id": 2, "name": "a kit"})


def answer_otherwise(h: Histories) -> None:
    h["requester"].append({**h["requester"][0], "revision": 2})


def read_too_old(h: Histories) -> None:
    h["reader"][0]["min_revision"] = 4


def read_what_was_not(h: Histories) -> None:
    h["reader"][0]["jobs"] = {"j": ["QUEUED", 0]}


def stay_away(h: Histories) -> None:
    h["writer"][1] |= {"start": 7.0, "end": 7.1}
    h["writer"][2] |= {"start": 8.0, "end": 8.1}


def never_end(h: Histories) -> None:
    told = {"op": "ended", "job": "j", "status": "RUNNING", "expected": "FINISHED"}
    h["worker"].append(told | {"end": 9.0})


def answer_a_repeat_otherwise(h: Histories) -> None:
    h["writer"][3]["results"] = [["DUPLICATE", 2]]


def hide_a_leaving(h: Histories) -> None:
    h["follower"][2]["left"] = []


def make_up_a_leaving(h: Histories) -> None:
    h["follower"].append(message([], 5, left=ROWS[2:3]))


def watch_other_labels(h: Histories) -> None:
    h["follower"][0]["filter"] = {"labels": {"side": "odd"}}


def skip_after_a_hop(h: Histories) -> None:
    h["hopper"][1]["rows"] = []


def split_after_a_hop(h: Histories) -> None:
    h["hopper"][0]["after"] = 2
    h["hopper"].insert(1, {**message(ROWS[2:3], 3), "op": "hopped"})


def refuse_what_was_acked(h: Histories) -> None:
    h["hopper"][4]["after"] = 5


def come_late(h: Histories) -> None:
    h["watcher"][3]["end"] = 19.0


def show_other_tasks(h: Histories) -> None:
    h["reader"][0]["jobs"]["j"][2] = digest([("t", 4)])


def show_another_past(h: Histories) -> None:
    h["reader"][0]["as_of"] = 1


def leave_out_of_a_page(h: Histories) -> None:
    del h["reader"][1]["rows"][1]


def end_the_pages_early(h: Histories) -> None:
    del h["reader"][1]["rows"][-1]


def know_nothing_of_what_was_acked(h: Histories) -> None:
    h["reader"][0] |= {"outcome": "refused", "code": "NOT_FOUND"}


def test_what_a_restored_backup_lacks_is_nobodys_fault(tmp_path: Path) -> None:
    histories = good()
    del histories["stored"][2:4]
    for name in ("hopper", "reader"):
        del histories[name][0 if name == "reader" else slice(0, 3)]
    spoiled = copy.deepcopy(histories)
    histories["nemesis"].append({"op": "restored", "after": 2, "beyond": 5, "end": 3.0})
    assert judged(histories, tmp_path) == {}
    assert judged(spoiled, tmp_path).keys() >= {"dense", "durable"}


def test_a_good_history_is_good(tmp_path: Path) -> None:
    assert judged(good(), tmp_path) == {}


@pytest.mark.parametrize(
    ("spoil", "promise"),
    [
        (lose_a_row, "complete"),
        (stay_behind, "complete"),
        (swap, "ordered"),
        (go_back_in_time, "ordered"),
        (split, "atomic"),
        (repeat, "unique"),
        (store_twice, "unique"),
        (make_twice, "unique"),
        (answer_otherwise, "unique"),
        (early_bookmark, "bookmarked"),
        (wrong_resume, "resumable"),
        (unwanted, "filtered"),
        (forget, "durable"),
        (store_another, "durable"),
        (store_refused, "verdicts"),
        (leave_a_gap, "dense"),
        (finish_twice, "legal"),
        (old_attempt, "fenced"),
        (grant_twice, "fenced"),
        (read_too_old, "read_your_write"),
        (read_what_was_not, "consistent"),
        (stay_away, "recovered"),
        (never_end, "ends"),
        (answer_a_repeat_otherwise, "unique"),
        (hide_a_leaving, "complete"),
        (make_up_a_leaving, "filtered"),
        (watch_other_labels, "filtered"),
        (skip_after_a_hop, "complete"),
        (split_after_a_hop, "atomic"),
        (refuse_what_was_acked, "complete"),
        (come_late, "prompt"),
        (show_other_tasks, "consistent"),
        (show_another_past, "consistent"),
        (leave_out_of_a_page, "listed"),
        (end_the_pages_early, "listed"),
        (know_nothing_of_what_was_acked, "durable"),
    ],
)
def test_each_broken_promise_is_seen(
    spoil: Callable[[Histories], None], promise: str, tmp_path: Path
) -> None:
    histories = good()
    spoil(histories)
    assert promise in judged(histories, tmp_path)
