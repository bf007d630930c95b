"""The rows of a batch as the JSON text that its statement takes.

Written by hand: what the rows of a job share is made once, what is at its default is left out,
and metadata, which is JSON already, goes in as it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from vistaflow_services.registry.changes import Changes, Content
from vistaflow_services.registry.domain import Job, StateRow
from vistaflow_services.registry.structs import quoted


class Texts:
    """The reasons of a batch, each of them once: the longest takes as much as a hundred rows."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}

    def place(self, text: str) -> int | None:
        """Where a reason is among them; None for an empty one, which is not kept."""
        if not text:
            return None
        return self._places.setdefault(text, len(self._places))

    def json(self) -> str:
        """All of them, as JSON text."""
        return "[" + ",".join(map(quoted, self._places)) + "]"


def rows_text(draft: Changes, texts: Texts) -> str:
    """An array of one object a row; see `write_rows` in queries.sql for the names.

    Args:
        draft: Whose rows.
        texts: Takes in their reasons, which the rows tell by their places.
    """
    parts: list[str] = []
    told: uuid.UUID | None = None
    job: Job | None = None
    head = ""
    jobs = draft.jobs
    for row in draft.rows:
        if row.job_id is not told:
            told, job = row.job_id, jobs.get(row.job_id)
            head = (
                f'"k":{row.kit_id},"j":"{row.job_id}","y":{quoted(row.job_type)},'
                f'"o":{row.current_order},"s":'
            )
        text = f'{{"i":{row.revision},"b":{row.batch},{head}"{row.status}","a":{row.attempt}'
        if row.seq:
            text += f',"q":{row.seq}'
        if row.actor:
            text += f',"w":{quoted(row.actor)}'
        if row.reason:
            text += f',"e":{texts.place(row.reason)}'
        if row.metadata_json:
            text += f',"m":{row.metadata_json}'
        # Of a task, only the last row of the batch is current, and none once another attempt
        # of the job has begun.
        if row.task_name:
            text += f',"t":{quoted(row.task_name)}'
            latest = _last(draft, row) if job is None else job.tasks.get(row.task_name) is row
        else:
            assert job is not None
            latest = job.revision == row.revision
            counts = ",".join(map(str, row.kit_counts or ()))
            text += f',"c":[{counts}],"f":{job.first_revision}'
        parts.append(text + ("}" if latest else ',"x":true}'))
    return "[" + ",".join(parts) + "]"


def contents_text(contents: Iterable[tuple[int, Content]]) -> str:
    """Revisions and what rows say; see `same_rows` in queries.sql for the names."""
    parts: list[str] = []
    for place, (revision, (task_name, status, reason, metadata_json)) in enumerate(contents):
        text = f'{{"n":{place},"i":{revision},"t":{quoted(task_name)},"s":"{status}"'
        text += f',"e":{quoted(reason)}'
        parts.append(text + (f',"m":{metadata_json}}}' if metadata_json else "}"))
    return "[" + ",".join(parts) + "]"


def _last(draft: Changes, row: StateRow) -> bool:
    """Whether a row that is of no job is the last of its name in the batch."""
    key = (row.job_id, row.task_name)
    last = max(each.revision for each in draft.rows if (each.job_id, each.task_name) == key)
    return row.revision == last
