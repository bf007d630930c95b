from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from vistaflow_services.registry.database.migrations import load_migrations
from vistaflow_services.registry.database.space import Space
from vistaflow_services.registry.log.hub import Lag
from vistaflow_services.registry.upkeep import checks
from vistaflow_services.registry.upkeep.checks import Finding, Transaction

GB = 10**9


def bad(finding: Finding) -> bool:
    """Whether it is wrong and says what to do."""
    assert (finding.state == checks.WRONG) <= bool(finding.fix)
    return finding.state == checks.WRONG


@pytest.mark.parametrize(
    ("free", "wrong", "word"),
    [(400 * GB, False, ""), (20 * GB, True, "RETENTION"), (GB // 10, True, "refused")],
)
def test_a_disk_that_runs_full_is_found_before_writes_are_refused(
    free: int, wrong: bool, word: str
) -> None:
    found = checks.check_disk(Space(free=free, size=500 * GB), GB // 4, GB)
    assert bad(found) is wrong
    assert word in found.summary + found.fix


def test_a_disk_elsewhere_is_no_fault() -> None:
    assert checks.check_disk(None, GB, GB).state == checks.NOTE


def test_clocks_that_disagree_are_found() -> None:
    there = datetime(2026, 1, 1, tzinfo=UTC)
    assert not bad(checks.check_clock(there.timestamp() + 0.5, there))
    assert bad(checks.check_clock(there.timestamp() - 60, there))


def test_a_pool_is_short_only_when_it_is_whole_and_reads_wait() -> None:
    busy = {"pool_size": 10, "pool_max": 10, "pool_available": 0, "requests_waiting": 3}
    assert bad(checks.check_pool(busy))
    assert not bad(checks.check_pool(busy | {"requests_waiting": 0}))
    assert not bad(checks.check_pool(busy | {"pool_size": 4}))


def test_a_registry_that_cannot_follow_is_wrong_and_a_slow_watch_a_note() -> None:
    quick, slow = Lag(5, 0.1, "quick"), Lag(30_000, 12.3, "token 'ana' from ipv4:10.0.0.7:4")
    assert checks.check_lag(100, 100, [Lag(0, 0, ""), quick]).state == checks.OK
    found = checks.check_lag(100, 100, [quick, slow])
    assert found.state == checks.NOTE
    assert (
        "the slowest 30,000 rows, 12.3 s behind: token 'ana' from ipv4:10.0.0.7:4;" in found.summary
    )
    assert bad(checks.check_lag(0, 30_000, []))


def test_a_strangers_long_transaction_is_named_and_our_own_backup_is_not() -> None:
    backup = Transaction(pid=1, database="d", application="vistaflow backup", state="", seconds=300)
    stranger = Transaction(
        pid=42, database="other", application="psql", state="idle in transaction", seconds=100
    )
    assert not bad(checks.check_transactions([]))
    assert not bad(checks.check_transactions([backup]))
    found = checks.check_transactions([stranger, backup])
    assert bad(found)
    assert "42" in found.summary
    assert "pg_terminate_backend(42)" in found.fix


def test_an_old_snapshot_and_full_connections_are_found() -> None:
    assert not bad(checks.check_xmin(1000, 1))
    assert bad(checks.check_xmin(10**7, 1))
    assert not bad(checks.check_connections(20, 57))
    assert bad(checks.check_connections(50, 57))


def test_pending_migrations_are_named() -> None:
    numbers = [each.number for each in load_migrations(checks.PACKAGE)]
    assert not bad(checks.check_migrations(numbers))
    found = checks.check_migrations(numbers[:-1])
    assert bad(found)
    assert f"{numbers[-1]:04d}_" in found.summary


def test_findings_travel_as_json_under_their_names() -> None:
    told = checks.entries_of_limits([Finding(name="disk", state="ok", summary="a lot")])
    assert json.loads(told["check.disk"]) == {"state": "ok", "found": "a lot", "fix": ""}


def test_a_database_that_a_newer_version_migrated_is_told_apart_from_one_that_is_behind() -> None:
    numbers = [each.number for each in load_migrations(checks.PACKAGE)]
    assert not bad(checks.check_migrations(numbers))
    behind = checks.check_migrations(numbers[:-1])
    assert bad(behind)
    assert "it migrates when it starts" in behind.fix
    ahead = checks.check_migrations([*numbers, 9000])
    assert bad(ahead)
    assert "9000" in ahead.summary
    assert "update this registry" in ahead.fix


def test_a_log_that_can_be_changed_is_wrong() -> None:
    assert checks.check_guard([], True).state == checks.OK
    assert checks.check_guard([], False).state == checks.NOTE
    assert bad(checks.check_guard(["partition x"], True))


def test_rows_beyond_the_head_and_missing_rows_are_critical() -> None:
    assert checks.check_log_end(0, 0, 0).state == checks.OK
    assert checks.check_log_end(9, 9, 0).state == checks.OK
    # All rows were dropped by retention; a restored log goes on further up.
    assert checks.check_log_end(9, 0, 9).state == checks.OK
    assert checks.check_log_end(1_000_009, 9, 1_000_009).state == checks.OK
    beyond = checks.check_log_end(9, 12, 0)
    assert (beyond.state, beyond.critical) == (checks.WRONG, True)
    assert "WHERE id > 9" in beyond.fix
    missing = checks.check_log_end(9, 8, 0)
    assert (missing.state, missing.critical) == (checks.WRONG, True)
    assert "restore" in missing.fix


def test_files_that_nobody_purges_are_found() -> None:
    assert not bad(checks.check_purge(0))
    assert "1,000 files" in checks.check_purge(1_000).summary
    assert bad(checks.check_purge(1))


def test_a_backup_is_overdue_only_where_an_age_is_set() -> None:
    assert not bad(checks.check_backup(None, 3_600))
    assert not bad(checks.check_backup(90_000, 0))
    assert not bad(checks.check_backup(3_600, 3_600))
    finding = checks.check_backup(90_000, 3_600)
    assert bad(finding)
    assert "25.0 hours" in finding.summary
    assert not finding.critical
