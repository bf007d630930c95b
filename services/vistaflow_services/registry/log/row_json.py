"""The rows of a batch as JSON text, a parameter of the statement that writes them.

Written without a JSON library: the part that rows of one job share is made once, fields with
their default are left out, and metadata, which is JSON already, is inserted unchanged.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from vistaflow_services.registry.domain import Job, StateRow
from vistaflow_services.registry.log.changes import Changes, Content
from vistaflow_services.registry.messages.encoding import quoted

LARGE_BYTES = 2 * 1024
"""Larger metadata is a text of its own: the database is slow to find its end within another, and
the text of all rows is copied less often without it."""

BETWEEN = "\x1e"
"""Separates texts that cannot contain this character, such as JSON."""


class Texts:
    """The long texts of the rows of a batch.

    These are the reasons, each once, because a long reason is as large as a hundred rows, and large
    metadata.
    """

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._metadata: dict[int, str] = {}

    def put_metadata(self, place: int, text: str) -> None:
        """Adds the metadata of the row with this index in the batch."""
        self._metadata[place] = text

    def metadata(self) -> str:
        """The large metadata of the rows up to the last that has some; empty for the others."""
        last = max(self._metadata, default=-1)
        return BETWEEN.join(self._metadata.get(place, "") for place in range(last + 1))

    def place(self, text: str) -> int | None:
        """The index of a reason; None for an empty one, which is not stored."""
        if not text:
            return None
        return self._places.setdefault(text, len(self._places))

    def json(self) -> str:
        """The reasons, as a JSON array."""
        return "[" + ",".join(map(quoted, self._places)) + "]"


def rows_text(draft: Changes, texts: Texts) -> str:
    """An array of one object a row; see `write_rows` in queries.sql for the names.

    Args:
        draft: The rows and their jobs.
        texts: Collects reasons, which the rows name by index, and large metadata.
    """
    parts: list[str] = []
    head_of: uuid.UUID | None = None
    job: Job | None = None
    head = ""
    jobs = draft.jobs
    for place, row in enumerate(draft.rows):
        if row.job_id is not head_of:
            head_of, job = row.job_id, jobs.get(row.job_id)
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
        if len(row.metadata_json) > LARGE_BYTES:
            texts.put_metadata(place, row.metadata_json)
        elif row.metadata_json:
            text += f',"m":{row.metadata_json}'
        # "x" marks a row that is not current any more. Of a task, only the last row of the batch
        # is current, and none of them once another attempt of the job has begun.
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
    """Revisions and contents of rows; see `same_rows` in queries.sql for the names."""
    parts: list[str] = []
    for place, (revision, (task_name, status, reason, metadata_json)) in enumerate(contents):
        text = f'{{"n":{place},"i":{revision},"t":{quoted(task_name)},"s":"{status}"'
        text += f',"e":{quoted(reason)}'
        parts.append(text + (f',"m":{metadata_json}}}' if metadata_json else "}"))
    return "[" + ",".join(parts) + "]"


def _last(draft: Changes, row: StateRow) -> bool:
    """Whether a row that is of no job is the last of its name in the batch."""
    key = (row.job_id, row.task_name)
    last = max(row.revision for row in draft.rows if (row.job_id, row.task_name) == key)
    return row.revision == last
