"""Pictures of a result: drawn, or left out with the reason in the log, and never a failure."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from vistaflow_services.core.work.artifacts import ArtifactStore
from vistaflow_services.core.work.attempt import Attempt
from vistaflow_services.core.work.pictures import draw_pictures


def _fail() -> Figure:
    raise OverflowError("cannot convert float infinity to integer")


def test_a_picture_that_cannot_be_drawn_is_left_out_and_the_others_are_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts = ArtifactStore(tmp_path)
    attempt = Attempt(
        kit_id=1, job_id="job", folder=artifacts.open_prefix("job", 1), artifacts=artifacts
    )
    good = Figure(layout="constrained")
    drawn = draw_pictures(attempt, {"broken.png": _fail, "good.png": lambda: good})
    assert [each["name"] for each in drawn] == ["good.png"]
    assert [each.name for each in attempt.folder.iterdir()] == ["good.png"]
    (corner,) = good.texts
    assert corner.get_text().startswith("kit 1 · 20")
    log = capsys.readouterr().err
    assert "OverflowError" in log
    assert "broken.png could not be drawn and is omitted" in log
