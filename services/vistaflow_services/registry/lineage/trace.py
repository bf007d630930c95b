"""The walk of a lineage: level by level, each level by a few queries.

Back, a level is what the jobs of the last one used. Forward, it is the jobs that used what those of
the last one made: jobs of the same kit that depend on them, and jobs whose specs contain the id of
a job, the name of a dataset or a file. Of these, the newest `MAX_SEARCHED` of a project are looked
at; whether one really used it is decided as in the other direction.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

from vistaflow.api.registry.v1 import registry_pb2 as pb
from vistaflow_services.core.door import callers
from vistaflow_services.core.errors import NotFoundError, Violations
from vistaflow_services.core.names import (
    MAX_PROJECT,
    dataset_reference,
    name_problems,
    text_problems,
)
from vistaflow_services.registry.domain import first_name
from vistaflow_services.registry.lineage.nodes import FILE, file_node, files_read, node_of
from vistaflow_services.registry.lineage.sources import DatasetUse, JobRow, sources_of
from vistaflow_services.registry.messages.translate import uuid_of
from vistaflow_services.registry.reads.store import Store

MAX_NODES: Final = 1_000
MAX_LEVELS: Final = 100
MAX_SEARCHED: Final = 20_000
"""Jobs that are searched for what used something."""

MAX_TEXT: Final = 1_024
"""Longest name of a file."""


class Lineage:
    """Answers GetLineage.

    Args:
        store: Reads jobs and versions of datasets.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def trace(self, request: pb.GetLineageRequest) -> pb.GetLineageResponse:
        """The lineage of what a request names.

        Raises:
            InvalidError: It names nothing, or not as it should.
            NotFoundError: What it names is not there.
        """
        start = request.WhichOneof("start") or ""
        _check(request, start)
        forward = request.direction == pb.LINEAGE_DIRECTION_FORWARD or (
            not request.direction and start in ("dataset", "file")
        )
        walk = _Walk(self._store, request.project or None, request.max_nodes or MAX_NODES)
        if start == "file":
            if not await walk.users_of_file(request.file):
                raise NotFoundError("no job that is there has read this file")
        else:
            ids = await walk.started(request, start)
            await walk.add(ids, start=True)
        await (walk.forward() if forward else walk.back())
        return walk.response


class _Walk:
    """One walk, with what it has seen."""

    def __init__(self, store: Store, project: str | None, most: int) -> None:
        self._store = store
        self._project = project
        self._most = most
        self.response = pb.GetLineageResponse()
        self._rows: dict[str, JobRow] = {}
        """The jobs of the answer."""
        self._looked_at: dict[str, JobRow] = {}
        self._inputs: dict[str, list[str]] = {}
        """What a job used, as ids of nodes, by its id."""
        self._files: dict[str, pb.LineageNode] = {}
        self._edges: set[tuple[str, str]] = set()
        self._frontier: list[str] = []
        self._searched: set[str] = set()

    async def started(self, request: pb.GetLineageRequest, start: str) -> list[str]:
        """The jobs that a walk begins with."""
        if start == "kit_id":
            rows = await self._fetch("lineage_kits", kit_ids=[request.kit_id])
            ids = [str(job_id) for job_id, *_ in rows]
            missing = f"there is no kit {request.kit_id}"
        elif start == "job_id":
            job_id = uuid_of(request.job_id)
            ids = [str(job_id)] if job_id and await self._load([str(job_id)]) else []
            missing = f"there is no job {request.job_id}"
        else:
            named = dataset_reference(request.dataset)
            assert named is not None  # it was checked
            project = named.project_for(request.project or callers.current().project)
            rows = await self._fetch(
                "lineage_alias", of=project, name=named.name, alias=named.alias
            )
            version = named.version or (rows[0][0] if rows and named.alias else 0)
            use = DatasetUse(project=project, name=named.name, version=version)
            ids = [] if named.alias and not rows else await self._versions([(use, None)])
            missing = f"there is no dataset {request.dataset} with such a version"
        if not ids:
            raise NotFoundError(missing)
        return ids

    async def users_of_file(self, name: str) -> bool:
        """Begins with a file; whether a job has read it."""
        for job_id in await self._search([name]):
            row = self._looked_at[job_id]
            facts = files_read(row)
            for file in sources_of(row).files:
                if name in (file, facts.get(file, {}).get("title")):
                    self._add_file(file, row).start = True
                    self._frontier.append(FILE + file)
        self._frontier = list(dict.fromkeys(self._frontier))
        return bool(self._frontier)

    async def add(self, ids: Iterable[str], *, start: bool = False) -> None:
        """Adds jobs to the answer, and to those to go on from."""
        await self._load(ids)
        for job_id in ids:
            row = self._looked_at.get(job_id)
            if row is None or job_id in self._rows:
                continue
            if len(self.response.nodes) >= self._most:
                self.response.truncated = True
                return
            self._rows[job_id] = row
            node = node_of(row)
            node.start = start
            self.response.nodes.append(node)
            self._frontier.append(job_id)

    async def back(self) -> None:
        """Goes on to what was used, to the end."""
        for _ in range(MAX_LEVELS):
            level, self._frontier = [i for i in self._frontier if i in self._rows], []
            if not level:
                return
            await self._find_inputs(level)
            await self.add([i for job_id in level for i in self._inputs[job_id]])
            for job_id in level:
                for source in self._inputs[job_id]:
                    if source.startswith(FILE):
                        self._add_file(source.removeprefix(FILE), self._rows[job_id])
                    self._connect(source, job_id)

    async def forward(self) -> None:
        """Goes on to what used it, to the end."""
        for _ in range(MAX_LEVELS):
            level, self._frontier = set(self._frontier), []
            if not level:
                return
            rows = [self._rows[node_id] for node_id in level if node_id in self._rows]
            texts = [node_id.removeprefix(FILE) for node_id in level]
            texts += [row.dataset for row in rows if row.dataset]
            candidates = await self._search(texts)
            kits = await self._fetch("lineage_kits", kit_ids=[row.kit_id for row in rows])
            candidates += [str(job_id) for job_id, *_ in kits]
            await self._load(candidates)
            await self._find_inputs(candidates)
            users = [one for one in candidates if level & set(self._inputs.get(one, ()))]
            await self.add(users)
            for user in users:
                for source in level & set(self._inputs[user]):
                    self._connect(source, user)

    def _connect(self, source: str, target: str) -> None:
        known = source in self._rows or source in self._files
        if known and target in self._rows and (source, target) not in self._edges:
            self._edges.add((source, target))
            self.response.edges.add(source_id=source, target_id=target)

    def _add_file(self, name: str, row: JobRow) -> pb.LineageNode:
        if FILE + name not in self._files:
            node = self.response.nodes.add()
            node.CopyFrom(file_node(name, files_read(row).get(name, {})))
            self._files[node.id] = node
        return self._files[FILE + name]

    async def _find_inputs(self, job_ids: Iterable[str]) -> None:
        """Notes what jobs used, as ids of nodes."""
        rows = [
            self._looked_at[i] for i in job_ids if i in self._looked_at and i not in self._inputs
        ]
        if not rows:
            return
        kits: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        siblings = await self._fetch("lineage_kits", kit_ids=[row.kit_id for row in rows])
        for job_id, kit_id, name in siblings:
            kits[kit_id][first_name(name)].append(str(job_id))
        for row in rows:
            used = sources_of(row)
            # Of a job and its successors the last one: the first is of the deck before.
            own = [
                kits[row.kit_id][name][-1] for name in row.depends_on if name in kits[row.kit_id]
            ]
            versions = await self._versions([(use, row) for use in used.datasets])
            files = [FILE + name for name in dict.fromkeys(used.files)]
            inputs = [*own, *sorted(used.job_ids), *versions, *files]
            self._inputs[str(row.job_id)] = [
                one for one in dict.fromkeys(inputs) if one != str(row.job_id)
            ]

    async def _versions(self, uses: Sequence[tuple[DatasetUse, JobRow | None]]) -> list[str]:
        """The jobs that made versions of datasets, as far as these are there for the caller."""
        ids = []
        for use, row in uses:
            if self._project and use.project != self._project:
                continue
            rows = await self._fetch(
                "lineage_version",
                of=use.project,
                name=use.name,
                version=use.version,
                before=row.ended_at if row else None,
            )
            ids += [str(job_id) for (job_id,) in rows]
        return ids

    async def _search(self, texts: Iterable[str]) -> list[str]:
        """Jobs whose specs contain some text that was not searched for before."""
        new = sorted(set(texts) - self._searched)
        self._searched |= set(new)
        if not new:
            return []
        rows = await self._fetch(
            "lineage_users",
            needles=[text.encode() for text in new],
            texts=new,
            searched=MAX_SEARCHED,
            most=MAX_NODES,
        )
        ids = [str(job_id) for (job_id,) in rows]
        await self._load(ids)
        return ids

    async def _load(self, ids: Iterable[str]) -> bool:
        """Reads jobs that were not read yet; whether all are there for the caller."""
        job_ids = [one for one in ids if not one.startswith(FILE)]
        new = [uuid.UUID(one) for one in job_ids if one not in self._looked_at]
        if new:
            for row in await self._fetch("lineage_jobs", job_ids=new):
                fields = dict(zip(JobRow.__dataclass_fields__, row, strict=True))
                fields["spec"] = bytes(fields["spec"])
                self._looked_at[str(row[0])] = JobRow(**fields)
        return all(one in self._looked_at for one in job_ids)

    async def _fetch(self, query: str, **parameters: object) -> Sequence[tuple]:  # type: ignore[type-arg]
        return await self._store.fetch(query, {"project": self._project, **parameters})


def _check(request: pb.GetLineageRequest, start: str) -> None:
    violations = Violations()
    if not start:
        violations.add("kit_id", "give one of kit_id, job_id, dataset and file")
    if start == "kit_id" and request.kit_id < 1:
        violations.add("kit_id", f"{request.kit_id} is no kit; give 1 or more")
    if start == "job_id" and uuid_of(request.job_id) is None:
        violations.add("job_id", "is no UUID")
    if start == "dataset" and dataset_reference(request.dataset) is None:
        violations.add("dataset", "give NAME, NAME@3 or NAME@ALIAS, or these after `PROJECT.`")
    if start == "file" and not request.file:
        violations.add("file", "is empty; give a name such as raw/x.json")
    for problem in text_problems(request.file, MAX_TEXT):
        violations.add("file", problem)
    if request.project:
        for problem in name_problems(request.project, MAX_PROJECT):
            violations.add("project", problem)
    if request.direction not in pb.LineageDirection.values():
        violations.add("direction", f"{request.direction} is no direction")
    if not 0 <= request.max_nodes <= MAX_NODES:
        violations.add("max_nodes", f"{request.max_nodes} is not from 1 to {MAX_NODES:,}")
    violations.check()
