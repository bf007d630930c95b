"""A kit that failed is one screen of 24 rows and 80 columns: one reason, and what to do."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import vistaflow
from tests.e2e.conftest import Suite  # type: ignore[import-not-found]

DECK = """\
name: trench_{kind}
version: "1"
simulator: python
entry: model.py:run
parameters:
  - {{name: x, range: [0, 1], unit: um}}
  - {{name: y, range: [0, 1], unit: V}}
responses:
  - {{name: gain, unit: dB}}
  - {{name: power, unit: mW}}
"""
KIT = """\
name: most gain of a trench ({kind})
deck: ./deck
seed: 1
design: {{size: 16}}
goals: maximize gain; power <= 0.5
optimize: {{budget: 4}}
"""

PROGRAMS = {
    "module": "import nosuchmodule\n\ndef run(x, y):\n    return {'gain': x, 'power': y}\n",
    "licence": """\
class LicenseUnavailable(Exception):
    pass

def run(x, y):
    print("ACME 2026.1 starting")
    raise LicenseUnavailable("cannot check out ACME_DEVICE: server 27000@lm1 is not reachable")
""",
    "convergence": """\
class ConvergenceError(Exception):
    pass

def run(x, y):
    for step in range(40):
        print(f"iteration {step}: residual {1e3 * x:.3e}")
    raise ConvergenceError(f"no convergence of the continuity equations at Vd = {x:.3f} V")
""",
    "half": """\
def run(x, y):
    if x > 0.5:
        raise ValueError(f"x = {x:.3f} um is more than the film of 0.5 um: the trench cuts it")
    return {"gain": x, "power": y}
""",
    "deck": "def run(x, y):\n    return {'gian': x, 'power': y}\n",
}
POINTS_FAILED = "of 16 points of trench_{kind} failed, more than the 50% that its policy allows:"


@pytest.mark.parametrize(
    ("kind", "stopped", "reason", "next_step"),
    [
        ("module", "design", "9 × CRASHED: ModuleNotFoundError: No module named 'nosuchmodule'",
         "--deck FOLDER"),
        ("licence", "design", "9 × LICENSE: LicenseUnavailable: cannot check out ACME_DEVICE",
         "what helps: free a licence"),
        ("convergence", "design", "9 × NO_CONVERGENCE: ConvergenceError: no convergence of the",
         "what helps: narrow the ranges"),
        ("half", "preprocess", "8 × CRASHED: ValueError:", "make the design larger, 20 rows"),
        ("deck", "design", "9 × CRASHED: the simulator returned no `gain`; it returned gian",
         "--deck FOLDER"),
    ],
)  # fmt: skip
def test_a_failed_kit_is_one_screen(
    suite: Suite, tmp_path: Path, kind: str, stopped: str, reason: str, next_step: str
) -> None:
    (tmp_path / "deck").mkdir()
    (tmp_path / "deck" / "deck.yaml").write_text(DECK.format(kind=kind))
    (tmp_path / "deck" / "model.py").write_text(PROGRAMS[kind])
    (tmp_path / "kit.yaml").write_text(KIT.format(kind=kind))
    with vistaflow.connect(suite.address) as client:
        kit = client.run(tmp_path / "kit.yaml")
        with pytest.raises(vistaflow.KitFailedError):
            client.wait(kit.kit_id)

    screen = Narrow(**dataclasses.asdict(suite)).cli("show", str(kit.kit_id)).stdout
    text = " ".join(screen.split())

    rows = screen.splitlines()
    assert len(rows) <= 22, screen  # with the command above and the prompt below: 24
    assert max(map(len, rows)) <= 80, screen
    assert text.count(reason) == 1, screen
    assert next_step in text, screen
    assert f"vistaflow points {kit.kit_id} --failed" in text, screen
    assert "its log: vistaflow logs" in text, screen
    assert "RUNS_FAILED" not in text, screen
    assert "picture:" not in text, screen
    waiting = [row for row in rows if row.rstrip().endswith(f"waits for {stopped}")]
    assert len(waiting) == (5 if stopped == "design" else 4), screen
    if stopped == "design":
        assert POINTS_FAILED.format(kind=kind) in text, screen


class Narrow(Suite):  # type: ignore[misc]
    """A suite whose users have terminals of 80 columns."""

    @property
    def env(self) -> dict[str, str]:
        """The environment of its users."""
        environment: dict[str, str] = super().env
        return {**environment, "COLUMNS": "80", "LINES": "24"}
