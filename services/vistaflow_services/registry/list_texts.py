"""The texts that list kits, jobs and rows, each for what is asked: no one plan does for all.

A page is to take as long in a log of a million kits as in one of a thousand. So every filter has
an index that gives what it wants in the order of the page, or gives all of the few there are; and
the texts are written so that the planner has no choice that depends on what it believes to be
common.
"""

from __future__ import annotations

from typing import LiteralString

from vistaflow_services.core.sql import edited
from vistaflow_services.registry.reading import QUERIES

RECENT_KITS = 2_000
"""So many of the newest kits are looked through before an index is asked."""

_OLDER = "kit_id <= %(recent)s AND (SELECT count(*) FROM recent) < %(limit)s"
_STATUS = "status >= word AND status <= word"
_NAME = "AND (%(contains)s = '' OR folded_parts(name) @> folded_parts(%(contains)s))"
_PROJECT = "AND kit_id IN (SELECT kit_id FROM kits WHERE project = %(project)s)"


def kits(*, by_status: bool, by_search: bool) -> LiteralString:
    """The text that lists kits.

    Args:
        by_status: Whether certain statuses are asked for.
        by_search: Whether labels or a part of the name are.
    """
    some = QUERIES["kits_wanted"]
    if by_search:
        recent = edited(some, "kit_id > %(after)s", "kit_id > greatest(%(after)s, %(recent)s)")
        recent = edited(recent, _NAME, "")
        older = edited(some, "WHERE", f"WHERE {_OLDER} AND")
        older = edited(older, "ORDER BY kit_id", "ORDER BY kit_id + 0")
        some = edited(QUERIES["kits_wanted_by_search"], "recent_kits", recent)
        some = edited(some, "older_kits", older)
    elif by_status:
        one = edited(some, "WHERE", f"WHERE {_STATUS} AND")
        one = edited(one, "ORDER BY kit_id", "ORDER BY status, kit_id")
        some = edited(QUERIES["kits_wanted_by_status"], "some_kits", one)
    return edited(QUERIES["list_kits"], "some_kits", some)


def jobs(*, by_kind: bool, by_project: bool) -> LiteralString:
    """The text that lists jobs.

    Args:
        by_kind: Whether certain types or statuses are asked for, and nothing that narrows more.
        by_project: Whether one project is.
    """
    some = QUERIES["jobs_wanted"]
    if not by_project:
        some = edited(some, _PROJECT, "")
    if by_kind:
        one = edited(some, "WHERE first", f"WHERE job_type = kind AND {_STATUS} AND first")
        one = edited(one, "ORDER BY first", "ORDER BY status, first")
        some = edited(QUERIES["jobs_wanted_by_kind"], "some_jobs", one)
    return edited(QUERIES["list_jobs"], "some_jobs", some)


def states(*, kept: bool, by_kit: bool, walked: bool) -> LiteralString:
    """The text that lists rows of the log.

    Args:
        kept: Whether of what is kept of dropped partitions.
        by_kit: Whether certain kits are asked for; of few rows, so all are found and sorted.
        walked: Whether they have many, so that the log is walked in its own order.
    """
    text = QUERIES["list_kept_states" if kept else "list_states"]
    if walked:
        return edited(text, "kit_id = ANY", "kit_id + 0 = ANY")
    return edited(text, "ORDER BY id LIMIT", "ORDER BY id + 0 LIMIT") if by_kit else text
