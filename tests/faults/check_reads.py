"""Judges what readers were shown against what is on disk."""

from __future__ import annotations

from collections.abc import Iterable

from tests.faults.history import Record
from tests.faults.log import Found, Log, key_of_row


def check_reads(found: Found, log: Log, gets: list[Record], lists: list[Record]) -> None:
    """A read is as new as was asked for, and what it shows was so at its revision."""
    for record in (*gets, *lists):
        name = record["client"]
        if record["outcome"] == "refused" and not log.restored:
            found["durable"].append(f"{name}: was told {record['code']} of what was acked")
    shown = _answered(found, log, gets)
    _check_kits(found, log, shown)
    for record in _answered(found, log, lists):
        _check_pages(found, log, record)


def _answered(found: Found, log: Log, reads: Iterable[Record]) -> list[Record]:
    """The reads that can be judged."""
    answered = []
    for record in reads:
        if record["outcome"] != "answered" or log.lost(record["revision"]):
            continue
        name, revision, least = record["client"], record["revision"], record["min_revision"]
        if revision < least and not record.get("as_of"):
            found["read_your_write"].append(f"{name}: asked for {least}, got {revision}")
        if revision > log.head and not any(b > log.head for _, b in log.restored):
            found["durable"].append(f"{name}: read {revision}, beyond the end {log.head}")
        answered.append(record)
    return answered


def _check_kits(found: Found, log: Log, gets: list[Record]) -> None:
    gets = [record for record in gets if not log.lost(record.get("as_of") or 0)]
    asked = {
        number: (record.get("as_of") or record["revision"], record["kit"])
        for number, record in enumerate(gets)
    }
    trees = log.trees(asked.values())
    for number, record in enumerate(gets):
        held = trees[asked[number]]
        shown = {job: tuple(each) for job, each in record["jobs"].items()}
        if held != shown:
            found["consistent"].append(
                f"{record['client']}: kit {record['kit']} was {held} at {asked[number][0]}, "
                f"not {shown}"
            )


def _check_pages(found: Found, log: Log, record: Record) -> None:
    """The pages are the beginning of what was asked for: all of it, if they say so."""
    name, after = record["client"], record["after"]
    wanted = log.wanted(record["filter"])
    through = record["revision"]
    expected = [each for each in log.within(after, through) if wanted(log.at[each])]
    got = [revision for revision, _ in record["rows"] if not log.lost(revision)]
    if got != expected[: len(got)] or (record["all"] and len(got) != len(expected)):
        found["listed"].append(
            f"{name}: {len(got)} rows after {after} are not the first of {len(expected)}"
        )
    for revision, key in record["rows"]:
        row = log.at.get(revision)
        if row is not None and key_of_row(row) != tuple(key):
            found["listed"].append(f"{name}: {revision} is {key_of_row(row)}, not {key}")
