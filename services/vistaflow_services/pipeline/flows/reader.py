"""kit.yaml with `jobs:` to a data kit; every mistake with its line.

The options of a job are the fields of its request, read as those of a design kit are. What is short
in the files of `vistaflow collect` and `vistaflow dataset import` is as short here. `${JOB.VALUE}`
is a whole value, or in SQL a parameter or a table; the text around it is never changed by it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from vistaflow.aio._data.collections import rows_message
from vistaflow.aio._data.import_specs import dedupe_of, files_message, references_of, rules_of
from vistaflow.aio._data.queries import parameter_of
from vistaflow.api.ingestion.v1 import ingestion_pb2
from vistaflow.api.pipeline.v1 import pipeline_pb2
from vistaflow.api.query.v1 import query_pb2
from vistaflow.errors import InvalidArgumentError
from vistaflow_services.core.errors import FieldViolation, InvalidError, Violations
from vistaflow_services.core.names import (
    MAX_ATTEMPTS,
    MAX_PROJECT,
    kit_name_problems,
    label_problems,
    name_problems,
)
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.files.document import Document, read_document
from vistaflow_services.pipeline.flows.designs import PLACES, type_of, with_bounds
from vistaflow_services.pipeline.flows.flow import Flow, FlowJob, Reference
from vistaflow_services.pipeline.flows.published import (
    DATASET,
    FLAG,
    KINDS,
    NUMBER,
    TABLE,
    TEXT,
    WHOLE,
    Published,
)
from vistaflow_services.pipeline.kitfile import Reader

MAX_JOBS: Final = 100
"""Most jobs of a data kit."""

MAX_JOB_NAME: Final = 60
"""Longest name of a job; a design adds the names of its stages."""

KEYS: Final = ("name", "project", "labels", "notify", "max_attempts", "jobs")
"""What a data kit has at its top."""

BESIDE: Final = ("depends_on", "max_attempts")
"""What a job may have beside its kind."""

_REFERENCE = re.compile(r"\$\{\s*([a-z0-9][a-z0-9_-]*)\.([a-z_]+)\s*\}")
_STEP = re.compile(r"\.?([^.\[\]]+|\[\d+\])")
_PLACE = re.compile(r"line (\d+), column (\d+): ")
_BLOCK = re.compile(r":\s*\|[-+]?\s*(#.*)?$")
"""A line whose value is the lines below it, as they are."""

_SPANS: Final = "google.protobuf.Duration"
_TABLE_KEYS: Final = frozenset({"source", "primary_key", "dedupe", "rules", "types"})
"""Keys of a table that an import with a single one has at its top."""


def is_flow(root: Any) -> bool:
    """Whether the content of a kit file is a data kit."""
    return isinstance(root, Mapping) and "jobs" in root


class FlowReader:
    """Reads one data kit.

    Args:
        document: The kit file.
        text: Its text.
        files: Texts of other files that it names, by the names that it uses.
    """

    def __init__(self, document: Document, text: str, files: Mapping[str, str]) -> None:
        self.flow = Flow()
        self._texts = {"": text, **files}
        self.documents = {"": document}
        self._files = files
        self.violations = Violations()

    def read(self) -> None:
        """Reads all of it; mistakes are added to `violations`."""
        root = self.documents[""].root
        for key in root:
            if key not in KEYS:
                hint = suggest(str(key), KEYS)
                self.wrong(str(key), f"unknown key of a kit with `jobs`{hint}")
        self._head(root)
        jobs = root["jobs"]
        if not isinstance(jobs, Mapping) or not jobs:
            self.wrong("jobs", "give a mapping of names to jobs, such as {load: {import: …}}")
            return
        if len(jobs) > MAX_JOBS:
            self.wrong("jobs", f"{len(jobs)} are given; at most {MAX_JOBS} may be")
            return
        for name, entry in jobs.items():
            self._job(str(name), entry, jobs)
        for job in self.flow.jobs.values():
            self._check_collected(job)
        self._check_order()

    def wrong(self, path: str, problem: str, file: str = "") -> None:
        """Notes a mistake at the line of a path, in SQL at that of the place that it names."""
        place = self.documents[file].field(path)
        if path.endswith("user_query"):
            place, problem = self._in_sql(file, path, problem)
        self.violations.add(place, problem)

    def located(self, job: FlowJob, violations: Iterable[FieldViolation]) -> None:
        """Notes mistakes that a service has found in the request of a job."""
        document = self.documents[job.file]
        # What could not be read is reported already: that it is missing is no mistake of its own.
        before = [violation.field for violation in self.violations]
        for violation in violations:
            path = written(document.root, job.path, violation.field.removeprefix("spec."))
            place, description = document.field(path), violation.description
            if path.endswith("user_query"):
                place, description = self._in_sql(job.file, path, description)
            if not any(place == other or place.startswith(f"{other}.") for other in before):
                self.violations.add(place, description)

    def _in_sql(self, file: str, path: str, description: str) -> tuple[str, str]:
        """The field and the text of a mistake in SQL, at its line and column of the file."""
        document = self.documents[file]
        lines = self._texts[file].splitlines()
        first, match = document.lines[path], _PLACE.match(description)
        if match is None or not _BLOCK.search(lines[first - 1]):
            return document.field(path), description
        line, column = int(match[1]), int(match[2])
        indent = len(lines[first]) - len(lines[first].lstrip())
        place = f"{document.file}:{first + line} {path}"
        return place, f"column {indent + column}: {description[match.end() :]}"

    def _head(self, root: Mapping[str, Any]) -> None:
        flow = self.flow
        for key in ("name", "project"):
            value = root.get(key)
            text = self.documents[""].texts.get(key, "") if value is not None else ""
            setattr(flow, key, text)
        for problem in kit_name_problems(flow.name):
            self.wrong("name", problem)
        if flow.project:
            for problem in name_problems(flow.project, MAX_PROJECT):
                self.wrong("project", problem)
        labels = root.get("labels") or {}
        if isinstance(labels, Mapping):
            flow.labels = {str(key): str(value) for key, value in labels.items()}
            for key, problem in label_problems(flow.labels):
                self.wrong(f"labels.{key}" if key else "labels", problem)
        else:
            self.wrong("labels", "give a mapping, such as {owner: ana}")
        fields, spec = Reader(self.documents[""], b""), pipeline_pb2.KitSpec()
        fields.message({"notify": root["notify"]} if "notify" in root else {}, spec, "")
        for violation in fields.violations:
            self.violations.add(violation.field, violation.description)
        flow.notify = list(spec.notify)
        flow.max_attempts = self._attempts(root, "max_attempts")

    def _attempts(self, entry: Mapping[str, Any], path: str) -> int:
        value = entry.get("max_attempts")
        if value is None:
            return 0
        if isinstance(value, int) and 1 <= value <= MAX_ATTEMPTS:
            return int(value)
        self.wrong(path, f"give a whole number from 1 to {MAX_ATTEMPTS}")
        return 0

    def _job(self, name: str, entry: Any, names: Iterable[str]) -> None:
        path = f"jobs.{name}"
        problems = [*name_problems(name, MAX_JOB_NAME)] + (["must not have a dot"] * ("." in name))
        for problem in problems:
            self.wrong(path, problem)
        known = ", ".join(KINDS)
        if not isinstance(entry, Mapping):
            self.wrong(path, f"give a mapping with one of {known}")
            return
        words = [key for key in entry if key in KINDS]
        for key in entry:
            if key not in KINDS and key not in BESIDE:
                hint = suggest(str(key), [*KINDS, *BESIDE])
                self.wrong(f"{path}.{key}", f"unknown key of a job{hint}")
        if len(words) != 1:
            self.wrong(path, f"say what the job does by one of {known}")
            return
        word = words[0]
        job = FlowJob(name=name, word=word, request=KINDS[word].request(), path=f"{path}.{word}")
        job.max_attempts = self._attempts(entry, f"{path}.max_attempts")
        self.flow.jobs[name] = job
        before = entry.get("depends_on") or []
        for index, other in enumerate(before if isinstance(before, list) else [before]):
            place = f"{path}.depends_on[{index}]" if isinstance(before, list) else path
            if other in names and other != name:
                job.depends_on.append(str(other))
            else:
                self.wrong(place, f"`{other}` is no other job{suggest(str(other), list(names))}")
        options = self._options(job, entry[word])
        if options is not None and word == "design":
            job.options = self._without_values(job, with_bounds(options, _match), "", "")
        elif options is not None:
            JobReader(self, job, self.documents[job.file]).options(options)

    def _without_values(self, job: FlowJob, node: Any, path: str, field: str) -> Any:
        """The options of a design without the values of other jobs, which are noted.

        Args:
            job: The design.
            node: A part of its options.
            path: Where the file has it, below the options.
            field: Where `KitSpec` has it: parameters are numbered.
        """
        if isinstance(node, Mapping):
            places = {
                key: f"[{number}]" if field == "design.parameters" else key
                for number, key in enumerate(node)
            }
            rest = {
                key: self._without_values(
                    job, item, _join(path, str(key)), _join(field, str(places[key]))
                )
                for key, item in node.items()
            }
            return {key: item for key, item in rest.items() if item is not _NOTHING}
        if isinstance(node, list):
            entries = [
                self._without_values(job, item, f"{path}[{number}]", f"{field}[{number}]")
                for number, item in enumerate(node)
            ]
            return [entry for entry in entries if entry is not _NOTHING]
        if not isinstance(node, str) or not _REFERENCE.search(node):
            return node
        match, place, expected = _match(node), _join(job.path, path), type_of(field)
        if match is None:
            self.wrong(place, "a value of a job is never a part of a text", job.file)
        elif not expected:
            self.wrong(place, f"`{node}` cannot be used here; it can in {PLACES}", job.file)
        elif published := self.published(job, match[1], match[2], place):
            if published.type not in (expected, WHOLE):
                problem = f"`{node}` is {_of_type(published.type)}, not {_of_type(expected)}"
                self.wrong(place, problem, job.file)
            else:
                job.references.append(
                    Reference(job=match[1], value=match[2], field=field, published=published)
                )
        return _NOTHING

    def _options(self, job: FlowJob, value: Any) -> Mapping[str, Any] | None:
        """The options of a job, from another file if that is named."""
        if isinstance(value, Mapping):
            return value
        if not isinstance(value, str):
            self.wrong(job.path, "give a mapping, or the name of a file beside this one")
            return None
        if value not in self._files:
            self.wrong(
                job.path,
                f"`{value}` is no file beside this one, or was not sent in `files`",
            )
            return None
        try:
            document = read_document(self._files[value].encode(), value)
        except InvalidError as error:
            self.violations.extend("", error)
            return None
        if not isinstance(document.root, Mapping):
            self.wrong(job.path, f"`{value}` holds no mapping")
            return None
        self.documents[value] = document
        job.file, job.path = value, ""
        return document.root

    def _check_order(self) -> None:
        for job in self.flow.jobs.values():
            for reference in job.references:
                if reference.job not in job.depends_on:
                    job.depends_on.append(reference.job)
        for cycle in self.flow.cycles():
            ring = " needs ".join(f"`{name}`" for name in (*cycle, cycle[0]))
            self.wrong(f"jobs.{cycle[0]}", f"the jobs wait for each other: {ring}")

    def _check_collected(self, job: FlowJob) -> None:
        """Whether a conversion reads JSON of the collection that it names."""
        if not isinstance(job.request, ingestion_pb2.ConvertJsonRequest):
            return
        for reference in job.references:
            other = self.flow.jobs.get(reference.job)
            if other is None or not isinstance(other.request, ingestion_pb2.CollectSpec):
                continue
            spec, problem = other.request, ""
            kind, name = spec.WhichOneof("content"), f"`{reference.job}`"
            if job.request.collection.pages:
                if kind == "html":
                    problem = f"the pages of {name} are HTML; leave `pages` out to read its rows"
            elif kind is None:
                problem = f"{name} reads no rows; give it `json`, or say `pages: true`"
            elif spec.format == ingestion_pb2.ROW_FORMAT_PARQUET:
                problem = f"{name} writes Parquet, which is no JSON; import its rows"
            if problem:
                self.wrong(f"{job.path}.collection".lstrip("."), problem, job.file)

    def published(
        self, job: FlowJob, name: str, value: str, path: str, where: str = ""
    ) -> Published | None:
        """The value that `${name.value}` names; None, with the mistake noted, if it is none.

        Args:
            job: The job that uses it.
            name: The job that it names.
            value: The value.
            path: Where the file has it.
            where: The line and column in SQL, before the mistake.
        """
        jobs = self.documents[""].root["jobs"]
        if name == job.name or name not in jobs:
            others = [str(other) for other in jobs if other != job.name]
            problem = (
                f"{where}`${{{name}.{value}}}`: `{name}` is no other job{suggest(name, others)}"
            )
            self.wrong(path, problem, job.file)
            return None
        entry = jobs[name]
        words = [key for key in entry if key in KINDS] if isinstance(entry, Mapping) else []
        if len(words) != 1:
            return None  # reported there
        values = KINDS[words[0]].values
        if value not in values:
            problem = f"{where}`${{{name}.{value}}}`: {words[0]} publishes no `{value}`"
            self.wrong(path, f"{problem}{suggest(value, list(values))}", job.file)
            return None
        return values[value]


class JobReader(Reader):
    """Fills the request of one job, and notes its references."""

    def __init__(self, flow: FlowReader, job: FlowJob, document: Document) -> None:
        super().__init__(document, b"")
        self.violations = flow.violations
        self._flow = flow
        self._job = job
        self._base = (job.path, "")
        table = "vistaflow.api.ingestion.v1.ImportTable"
        spec = "vistaflow.api.ingestion.v1.CollectSpec"
        query = "vistaflow.api.query.v1.SubmitQueryRequest"
        html, json = ingestion_pb2.HtmlRows, ingestion_pb2.JsonRows
        self.special = {
            f"{table}.source": self._source,
            f"{table}.rules": partial(self._built, "rules", rules_of),
            f"{table}.references": partial(self._built, "references", references_of),
            f"{table}.dedupe": partial(self._built, "dedupe", dedupe_of),
            f"{spec}.html": partial(self._built, "html", partial(rows_message, html)),
            f"{spec}.json": partial(self._built, "json", partial(rows_message, json)),
            "vistaflow.api.ingestion.v1.ConvertJsonRequest.collection": self._collection,
            f"{query}.user_query": self._query,
            f"{query}.parameters": self._parameters,
        }

    def options(self, options: Mapping[str, Any]) -> None:
        """Fills the request from its options."""
        job, request = self._job, self._job.request
        for name in sorted(job.kind.hidden & set(map(str, options))):
            hint = "; keep the key with the operator, and name it by key_ref" * (
                name in ("aes256cbckey", "iv")
            )
            self.wrong(_join(job.path, name), f"cannot be given in a kit file{hint}")
        known = {key: value for key, value in options.items() if key not in job.kind.hidden}
        if isinstance(request, ingestion_pb2.ImportSpec):
            self._import(known, request)
            return
        if isinstance(known.get("pages"), str):
            known["pages"] = {"url": known["pages"]}
        self.message(known, request, job.path)
        missing = "user_query" if job.word == "query" and "user_query" not in known else ""
        if missing:
            self.wrong(job.path or missing, "`user_query` is missing; write one SELECT")

    def _field(self, value: Any, into: Message, field: FieldDescriptor, path: str) -> None:
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match and field.full_name not in self.special:
            self._refer(match, field, path)
        elif field.message_type and field.message_type.full_name == _SPANS:
            if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
                getattr(into, field.name).FromMilliseconds(round(value * 1_000))
            else:
                self.wrong(path, f"`{value}` is no number of seconds")
        elif field.is_repeated and not field.message_type and isinstance(value, str):
            super()._field([value], into, field, path)
        else:
            super()._field(value, into, field, path)

    def wrong(self, path: str, problem: str) -> None:
        """Notes one mistake at the line of `path`."""
        self._flow.wrong(path, problem, self._job.file)

    def _refer(self, match: re.Match[str], field: FieldDescriptor, path: str) -> None:
        """Notes the reference of a field, if the value is of its type."""
        published = self._flow.published(self._job, match[1], match[2], path)
        if published is None:
            return
        expected = _type_of(field)
        is_right = published.type == expected or (expected == NUMBER and published.type == WHOLE)
        if not is_right:
            self.wrong(
                path, f"`{match[0]}` is {_of_type(published.type)}, not {_of_type(expected)}"
            )
            return
        self._note(match, published, self._place(path))

    def _note(self, match: re.Match[str], published: Published, field: str) -> None:
        self._job.references.append(
            Reference(job=match[1], value=match[2], field=field, published=published)
        )

    def _place(self, path: str) -> str:
        """The path of a field in the request, from that in the file."""
        before, after = self._base
        return _join(after, path.removeprefix(before).lstrip("."))

    def _import(self, options: Mapping[str, Any], spec: ingestion_pb2.ImportSpec) -> None:
        job = self._job
        head = {key: value for key, value in options.items() if key not in _TABLE_KEYS}
        table = {key: value for key, value in options.items() if key in _TABLE_KEYS}
        profile = head.pop("profile", None)
        if isinstance(profile, bool):
            spec.skip_profile = not profile
        elif profile is not None:
            self.wrong(_join(job.path, "profile"), "give true or false")
        self.message(head, spec, job.path)
        if table and "tables" in head:
            place = _join(job.path, next(iter(table)))
            self.wrong(place, "is given beside `tables`; put it into one of them")
            return
        match = _match(table.get("source"))
        published = self._flow.published(job, match[1], match[2], job.path) if match else None
        if (
            match
            and published
            and match[2] == "tables"
            and published.type == TABLE
            and len(table) == 1
        ):
            self._note(match, published, "conversion")
        elif table:
            self._base = (job.path, "tables[0]")
            self.message(table, spec.tables.add(), job.path)

    def _source(self, value: Any, into: Message, path: str) -> None:
        source: ingestion_pb2.RowSource = getattr(into, "source")  # noqa: B009
        source.SetInParent()
        if match := _match(value):
            self._source_of(match, source, path, path, "")
        elif isinstance(value, str | list):
            self._files(value, {}, source, path)
        elif not isinstance(value, Mapping):
            self.wrong(path, "give files, `${JOB.result}`, or a mapping with files, job or dataset")
        elif "files" in value and not isinstance(value["files"], Mapping):
            rest = {key: item for key, item in value.items() if key != "files"}
            self._files(value["files"], rest, source, f"{path}.files")
        elif "job" in value or (isinstance(value.get("dataset"), str)):
            key = "job" if "job" in value else "dataset"
            table = value.get("table") or ""
            for other in set(value) - {key, "table"}:
                self.wrong(f"{path}.{other}", f"is no key beside `{key}`; give `table`")
            if match := _match(value[key]):
                self._source_of(match, source, path, f"{path}.{key}", str(table))
            elif key == "dataset":
                source.dataset.dataset, source.dataset.table = value[key], str(table)
            else:
                self.wrong(f"{path}.job", "name an earlier job, such as ${convert.tables}")
        else:
            self.message(value, source, path)

    def _source_of(
        self,
        match: re.Match[str],
        source: ingestion_pb2.RowSource,
        path: str,
        named_at: str,
        table: str,
    ) -> None:
        """Rows of an earlier job; `named_at` is where the file names it."""
        published = self._flow.published(self._job, match[1], match[2], named_at)
        if published is None:
            return
        place = self._place(path)
        if published.type == DATASET:
            source.dataset.SetInParent()
            source.dataset.table = table
            self._note(match, published, f"{place}.dataset.dataset")
        elif published.type == TABLE:
            entry = self._flow.documents[""].root["jobs"][match[1]]
            kind = next(KINDS[key] for key in entry if key in KINDS)
            rows = getattr(source, kind.source)
            rows.SetInParent()
            rows.table = table
            self._note(match, published, f"{place}.{kind.source}.job_id")
        else:
            self.wrong(named_at, f"`{match[0]}` is {_of_type(published.type)}, not rows")

    def _collection(self, value: Any, into: Message, path: str) -> None:
        """What a conversion reads of an earlier collection."""
        collection: ingestion_pb2.CollectedJson = getattr(into, "collection")  # noqa: B009
        collection.SetInParent()
        named, place = value, path
        if isinstance(value, Mapping) and "job" in value:
            named, place = value["job"], f"{path}.job"
            rest = {key: item for key, item in value.items() if key != "job"}
            self.message(rest, collection, path)
        match = _match(named)
        if match is None:
            self.wrong(path, "give an earlier job, as ${pages.result} or {job: …, pages: true}")
            return
        published = self._flow.published(self._job, match[1], match[2], place)
        if published is None:
            return
        if published.type != TABLE or self._kind_of(match[1]) != "collect":
            self.wrong(place, f"`{match[0]}` is no result of a `collect` job")
            return
        self._note(match, published, f"{self._place(path)}.job_id")

    def _files(
        self, names: Any, options: Mapping[str, Any], source: ingestion_pb2.RowSource, path: str
    ) -> None:
        listed = [names] if isinstance(names, str) else names
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            self.wrong(path, "give names of files in data roots, such as raw/whisky.csv")
            return
        try:
            source.files.CopyFrom(files_message(listed, options, ""))
        except InvalidArgumentError as error:
            self._noted(error, path.removesuffix(".files"))

    def _built(self, name: str, build: Any, value: Any, into: Message, path: str) -> None:
        """Fills a field by what the client makes of the short form."""
        if _REFERENCE.search(str(value)):
            self.wrong(path, "values of jobs cannot be used here")
            return
        try:
            built = build(value, name)
        except InvalidArgumentError as error:
            self._noted(error, path.removesuffix(name).rstrip("."))
            return
        if isinstance(built, list):
            getattr(into, name).extend(built)
        else:
            getattr(into, name).CopyFrom(built)

    def _noted(self, error: InvalidArgumentError, base: str) -> None:
        document = self.document
        for violation in error.violations:
            path = written(document.root, base, violation.field.lstrip("."))
            self.wrong(path, violation.description)

    def _query(self, value: Any, into: Message, path: str) -> None:
        """The text of a query, with a parameter or a table in the place of each reference."""
        if not isinstance(value, str):
            self.wrong(path, "give the text of one SELECT")
            return
        request: query_pb2.SubmitQueryRequest = self._job.request  # type: ignore[assignment]
        names = dict[str, str]()

        def replaced(match: re.Match[str]) -> Any:
            text, before = f"{match[1]}.{match[2]}", value[: match.start()]
            line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
            where = f"line {line}, column {column}: "
            published = self._flow.published(self._job, match[1], match[2], path, where)
            if published is None:
                return match[0]
            if text not in names and published.type in (TABLE, DATASET):
                kind = self._kind_of(match[1])
                if published.type == TABLE and kind != "query":
                    self.wrong(path, f"{where}`{match[0]}` cannot be read by SQL; import it first")
                names[text] = f'"{text}"'
                request.tables[text] = ""
                self._note(match, published, f"tables[{text}]")
            elif text not in names:
                name = re.sub(r"\W", "_", text)
                names[text] = f":{name}"
                self._note(match, published, f"parameters[{len(request.parameters)}].value")
                request.parameters.add(name=name, type=published.type)
            new = names[text]
            # Mistakes in the query are at the columns of the file.
            room = len(match[0]) - len(new)
            return new + " " * (room if not match.string[match.end() :].startswith(".") else 0)

        request.user_query = _REFERENCE.sub(replaced, value)

    def _kind_of(self, name: str) -> str:
        entry = self._flow.documents[""].root["jobs"][name]
        return str(next(key for key in entry if key in KINDS))

    def _parameters(self, value: Any, into: Message, path: str) -> None:
        request: query_pb2.SubmitQueryRequest = self._job.request  # type: ignore[assignment]
        if not isinstance(value, Mapping):
            self.wrong(path, "give a mapping of names to values, such as {least: 3}")
            return
        for name, item in value.items():
            place = f"{path}.{name}"
            if match := _match(item):
                published = self._flow.published(self._job, match[1], match[2], place)
                if published is not None and published.type in (TABLE, DATASET):
                    self.wrong(place, f"`{match[0]}` is {_of_type(published.type)}, not a value")
                elif published is not None:
                    self._note(match, published, f"parameters[{len(request.parameters)}].value")
                    request.parameters.add(name=str(name), type=published.type)
            elif isinstance(item, Mapping):
                parameter = request.parameters.add(name=str(name))
                self.message(item, parameter, place)
            else:
                try:
                    request.parameters.append(parameter_of(str(name), item))
                except InvalidArgumentError as error:
                    self.wrong(place, error.violations[0].description)


def written(root: Any, base: str, path: str) -> str:
    """The path in a file of a field of a request, as far as the file has it.

    Args:
        root: The content of the file.
        base: Where the file has the request.
        path: The field: entries of a mapping may be numbered, and an import with a single table
            has no `tables[0]`.
    """
    node, place = root, ""
    for step in _STEP.findall(base):
        node, place = _child(node, step), _join(place, step)
    for step in _STEP.findall(path):
        if step in ("tables", "[0]") and isinstance(node, Mapping) and "tables" not in node:
            continue
        if step.startswith("[") and isinstance(node, Mapping):
            keys = list(node)
            index = int(step[1:-1])
            step = str(keys[index]) if index < len(keys) else step
        child = _child(node, step)
        if child is _NOTHING:
            break
        node, place = child, _join(place, step)
    return place or path


_NOTHING: Final = object()


def _child(node: Any, step: str) -> Any:
    if isinstance(node, Mapping):
        return node.get(step, _NOTHING)
    if isinstance(node, list) and step.startswith("[") and int(step[1:-1]) < len(node):
        return node[int(step[1:-1])]
    return _NOTHING


def _join(*parts: str) -> str:
    text = ""
    for part in filter(None, parts):
        text += part if part.startswith("[") or not text else f".{part}"
    return text


def _match(value: Any) -> re.Match[str] | None:
    return _REFERENCE.fullmatch(value) if isinstance(value, str) else None


def _type_of(field: FieldDescriptor) -> str:
    """The type of the values that a field takes."""
    if field.full_name == "vistaflow.api.ingestion.v1.DeliverSpec.dataset":
        return DATASET
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_INT32 | FieldDescriptor.CPPTYPE_INT64:
            return WHOLE
        case FieldDescriptor.CPPTYPE_DOUBLE:
            return NUMBER
        case FieldDescriptor.CPPTYPE_BOOL:
            return FLAG
    return TEXT


def _of_type(name: str) -> str:
    """A type in words."""
    words = {
        TABLE: "rows",
        DATASET: "a version of a dataset",
        WHOLE: "a whole number",
        NUMBER: "a number",
        FLAG: "true or false",
    }
    return words.get(name, "a text")
