"""Tells every failure of every kit, once, also those that happen while this does not run.

    python examples/watch_failures.py seen.txt

The file keeps the revision up to which everything was told. A watch that begins there misses
nothing and repeats nothing, whichever process, connection or day it is.
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
            # Not only after a failure: a revision without one need not be looked at again either.
            save(seen, max(revision, event.revision))


def tell(state: vistaflow.State) -> None:
    what = f"task {state.task_name!r}" if state.task_name else "the job"
    why = " ".join(state.reason.split())
    print(
        f"{state.revision}: kit {state.kit_id}, {state.job_type}: {what} failed: {why}",
        flush=True,
    )


def save(path: Path, revision: int) -> None:
    """Replaces the file as a whole: killed at any moment, it says one revision or the other."""
    beside = path.with_suffix(".new")
    beside.write_text(f"{revision}\n")
    beside.replace(path)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "seen.txt"))
