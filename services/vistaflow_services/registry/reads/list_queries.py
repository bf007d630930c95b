"""The SQL that lists kits, jobs and rows: a variant for each kind of filter.

The time of a page must not grow with the number of kits. So every filter has an index that returns
its matches in the order of the page, or all of them if they are few. The variants leave the planner
no choice that depends on its statistics, which may be wrong for one filter and right for another.
"""

from __future__ import annotations

from typing import LiteralString

from vistaflow_services.registry.database.queries import QUERIES, edited

RECENT_KITS = 2_000
"""How many of the newest kits are scanned before an index is used."""

_OLDER = "kit_id <= %(recent)s AND (SELECT count(*) FROM recent) < %(limit)s"
_STATUS = "status >= word AND status <= word"
_NAME = "AND (%(name_contains)s::text IS NULL OR name_grams(name) @> part_grams(%(name_contains)s))"
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


def states(*, dropped: bool, by_kit: bool, walked: bool) -> LiteralString:
    """The text that lists rows of the log.

    Args:
        dropped: Whether to list what retention kept of dropped partitions; else the log.
        by_kit: Whether certain kits are asked for; of few rows, so all are found and sorted.
        walked: Whether they have many, so that the log is walked in its own order.
    """
    text = QUERIES["list_kept_states" if dropped else "list_states"]
    if walked:
        return edited(text, "kit_id = ANY", "kit_id + 0 = ANY")
    return edited(text, "ORDER BY id LIMIT", "ORDER BY id + 0 LIMIT") if by_kit else text
