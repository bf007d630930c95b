"""Pauses, the past and changes by a filter, from both clients and the command line."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

import vistaflow
from tests.integration.client.conftest import RegistryProcess  # type: ignore[import-not-found]
from vistaflow.cli.app import app


def test_both_clients_pause_look_back_and_change_many(process: RegistryProcess) -> None:
    with vistaflow.connect(process.address) as client:
        kit = client.create_kit("x", ["DOE", "ML_TRAIN"], project="tcad", labels={"a": "b"})
        assert client.pause_kit(kit.kit_id, reason="lunch").paused
        assert client.kit(kit.kit_id).paused
        assert not client.resume_kit(kit.kit_id).paused
        time.sleep(0.01)
        between = datetime.now(UTC)
        would = client.cancel_jobs(project="tcad", job_types=["DOE"], dry_run=True)
        done = client.cancel_jobs(project="tcad", job_types=["DOE"], reason="no", actor="ada")
        assert (would.count, done.count, done.revision) == (1, 1, 5)
        assert [(each.name, each.reason) for each in done.jobs] == [("doe", "no")]

        assert client.kit(kit.kit_id, as_of=kit.revision) == kit
        assert client.kit(kit.kit_id, as_of=between).status == "QUEUED"
        assert client.kit(kit.kit_id, as_of=between).revision == 4
        with pytest.raises(vistaflow.OutOfRangeError):
            client.kit(kit.kit_id, as_of=99)
        diff = client.diff_kit(kit.kit_id, 4)
        assert (diff.from_status, diff.to_status) == ("QUEUED", "CANCELED")
        (change,) = diff.changes
        assert change.before is not None
        assert change.after is not None
        assert (change.before.status, change.after.status) == ("QUEUED", "CANCELED")
        assert client.retry_jobs(kit_labels={"a": "b"}, kit_ids=[kit.kit_id]).count == 1
        with pytest.raises(vistaflow.InvalidArgumentError):
            client.retry_jobs()

        assert [each.kit_id for each in client.kits(created_before=between)] == [kit.kit_id]
        assert list(client.kits(created_after=between)) == []
        assert [each.revision for each in client.states(recorded_after=between)] == [5, 6]
        assert list(client.states(project="other")) == []


def test_the_command_line_does_the_same(process: RegistryProcess) -> None:
    def told(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*arguments, "--address", process.address])
        assert result.exit_code == code, result.output
        return result.output

    with vistaflow.connect(process.address) as client:
        kit = client.create_kit("x", ["DOE", "ML_TRAIN"], project="tcad", labels={"a": "b"})
        client.create_kit("y", ["DOE"])

    assert "paused" in told("pause", "1", "--reason", "lunch")
    assert "paused" in told("show", "1")
    assert "kit/pause RUNNING lunch" in told("states", "1")
    assert "paused" not in told("resume", "1")
    assert "2 jobs would be canceled" in told("cancel", "--project", "tcad", "--dry-run")
    assert "1 job is canceled" in told("cancel", "--label", "a=b", "--type", "DOE")
    assert "QUEUED" in told("show", "1", "--as-of", str(kit.revision))
    assert "CANCELED" not in told("show", "1", "--as-of", str(kit.revision))
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert "beyond" in told("show", "1", "--as-of", later, code=1)
    told("show", "1", "--as-of", "yesterday", code=2)
    changed = told("diff", "1", str(kit.revision))
    assert "doe" in changed
    assert "CANCELED" in changed
    assert "kit/pause" in changed
    counted = json.loads(told("retry", "1", "--status", "CANCELED", "--dry-run", "--json"))
    assert counted["count"] == 1
    assert "QUEUED" in told("retry", "1")
    told("cancel", code=2)
    told("cancel", "--status", "LATE", code=2)
    told("cancel", "--label", "a", code=2)
    assert "CANCELED" in told("cancel", "1")
