"""Prints every failure of every kit, once, also those that happen while this does not run.

    python examples/watch_failures.py seen.txt

The file holds the last revision that was printed. A watch that starts there misses
nothing and repeats nothing, in any process and over any connection.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import vistaflow


def main(seen: Path) -> None:
    revision = int(seen.read_text()) if seen.exists() else 0
    with vistaflow.connect() as client:
        for event in client.watch(statuses=["FAILED"], after_revision=revision):
            if isinstance(event, vistaflow.Delta):
                for state in event.states:
                    tell(state)
            # After every event: revisions without a failure are not read again either.
            save(seen, max(revision, event.revision))


def tell(state: vistaflow.State) -> None:
    what = f"task {state.task_name!r}" if state.task_name else "the job"
    why = " ".join(state.reason.split())
    print(
        f"{state.revision}: kit {state.kit_id}, {state.job_type}: {what} failed: {why}",
        flush=True,
    )


def save(path: Path, revision: int) -> None:
    """Replaces the file as a whole: after a kill at any moment it has the old or the new one."""
    beside = path.with_suffix(".new")
    beside.write_text(f"{revision}\n")
    beside.replace(path)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "seen.txt"))
