"""`python -m tests.faults`: runs scenarios, or judges the histories of a run again.

Exit codes: 0 passed, 1 a promise was broken, 3 too little happened, 4 impossible on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import sys
import tempfile
from pathlib import Path

from tests.faults.checker import check, told
from tests.faults.mutations import MUTATIONS
from tests.faults.report import EXIT_CODES, Outcome, table
from tests.faults.runner import run
from tests.faults.scenarios import SCENARIOS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="all, if none")
    parser.add_argument("--seed", type=int, help="random, if not given")
    parser.add_argument("--seconds", type=float, default=0.0, help="as the scenario says, if 0")
    parser.add_argument("--mutation", choices=MUTATIONS, default="", help="a deliberate bug")
    parser.add_argument("--folder", type=Path, help="where histories and logs are kept")
    parser.add_argument("--report", type=Path, help="a file for the table of all runs")
    parser.add_argument("--check", type=Path, help="judge the histories in this folder, and end")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    given = parser.parse_args()
    if given.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:22} {scenario.seconds:4g} s  {scenario.says}")
        return 0
    if given.check is not None:
        found = check(given.check)
        print(told(found))
        return EXIT_CODES[Outcome.VIOLATED if found else Outcome.PASSED]
    folder = given.folder or Path(tempfile.mkdtemp(prefix="vistaflow-histories-"))
    worst = 0
    reports = []
    for name in given.scenario or SCENARIOS:
        seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
        report = asyncio.run(
            run(
                name,
                seed=seed,
                folder=folder / f"{name}-{seed}",
                seconds=given.seconds,
                mutation=given.mutation,
                keep=given.folder is not None,
            )
        )
        print(report, flush=True)
        reports.append(report)
        code = EXIT_CODES[report.outcome]
        worst = code if code == 1 or (worst != 1 and code) else worst
    with contextlib.suppress(OSError):
        folder.rmdir()
    print(table(reports))
    if given.report is not None:
        given.report.write_text(table(reports) + "\n")
    return worst


if __name__ == "__main__":
    sys.exit(main())
