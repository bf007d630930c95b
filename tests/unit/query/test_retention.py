"""Results that are too old or over the quota are removed, each by itself."""

from __future__ import annotations

import uuid
from pathlib import Path

from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.query_results import Quota, note_result, remove_results


def test_a_result_that_cannot_be_removed_is_tried_again_and_holds_up_no_other(
    tmp_path: Path,
) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts")
    results = []
    for _ in range(3):
        query_id = str(uuid.uuid4())
        result = artifacts.root / "jobs" / query_id / "1" / "result"
        result.mkdir(parents=True)
        (result / "rows").write_bytes(b"1")
        note_result(artifacts, query_id, "p", 1)
        results.append(result)
    # A folder is not removed through a link.
    elsewhere = tmp_path / "elsewhere"
    results[0].rename(elsewhere)
    results[0].symlink_to(elsewhere)

    assert remove_results(artifacts, -1).files == 2
    assert [result.exists() for result in results] == [True, False, False]

    results[0].unlink()
    elsewhere.rename(results[0])
    assert (remove_results(artifacts, -1).files, results[0].exists()) == (1, False)
    assert Quota(artifacts, 0).sweep() == 0
