"""A request as a query that can run: parsed, tables resolved, converted, checked by the engine.

Nothing of it is recorded before all of it is right. What is recorded is signed: an attempt reads
the tables of no other spec than the service's own, which resolved them with the caller's rights.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from itertools import islice
from pathlib import Path
from typing import Final

from vistaflow.api.query.v1 import query_pb2 as pb
from vistaflow_services.core import config as configuration
from vistaflow_services.core.errors import ConflictError, InvalidError, Violations, cut
from vistaflow_services.core.names import is_job_id
from vistaflow_services.datasets.manifest import Column
from vistaflow_services.query.config import Config
from vistaflow_services.query.conversion import converted
from vistaflow_services.query.engines.contract import Engine, Query, SourceTable
from vistaflow_services.query.engines.trino_engine import TrinoEngine
from vistaflow_services.query.lineage import lineage, located
from vistaflow_services.query.mistakes import QueryError
from vistaflow_services.query.parameters import Parameter, ParameterType
from vistaflow_services.query.statement import Dialect, Statement, TableName, parse
from vistaflow_services.query.tables.catalog import FoundTable, Tables, error_at, to_json

MAX_TEXT: Final = 64 * 1024
"""Most bytes of a query."""

SECRET_BYTES: Final = 32
"""Size of the key that signs specs."""

MAX_RECORDED_TEXT: Final = 32 * 1024
"""Most characters that are recorded of a converted query."""

MAX_LINEAGE_TABLES: Final = 100
MAX_LINEAGE_BYTES: Final = 64 * 1024
"""Most that is recorded of where columns come from."""

MAX_SPEC_BYTES: Final = 1 << 20
"""Most bytes of what is recorded of the tables of a query."""

DIALECTS: Final = {
    pb.QUERY_DIALECT_UNSPECIFIED: Dialect.TRINO,
    pb.QUERY_DIALECT_TRINO: Dialect.TRINO,
    pb.QUERY_DIALECT_DUCKDB: Dialect.DUCKDB,
}

_ENUMS: Final = {"dialect": pb.QueryDialect, "engine": pb.QueryEngine, "reuse": pb.ReusePolicy}

_CONTROL: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")

_TYPES: Final[Mapping[str, ParameterType]] = {
    "": ParameterType.TEXT,
    "VARCHAR": ParameterType.TEXT,
    "BIGINT": ParameterType.WHOLE,
    "DOUBLE": ParameterType.NUMBER,
    "BOOLEAN": ParameterType.FLAG,
    "DATE": ParameterType.DATE,
    "TIMESTAMP": ParameterType.TIMESTAMP,
}


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A query that can run."""

    statement: Statement
    tables: tuple[FoundTable, ...]
    converted_query: str
    offset: int
    limit: int | None
    columns: tuple[Column, ...]

    def key(self, request: pb.SubmitQueryRequest, project: str) -> str:
        """SHA-256 of all that the result depends on; empty if that is not enough to know it."""
        if self.statement.volatile or not all(table.version for table in self.tables):
            return ""
        versions = [[table.name, table.target, table.version] for table in self.tables]
        return _digest([text_key(request, project), versions])


def text_key(request: pb.SubmitQueryRequest, project: str) -> str:
    """SHA-256 of what is asked, whatever the tables hold."""
    parameters = sorted(
        (value.name, value.type, value.value if value.HasField("value") else None)
        for value in request.parameters
    )
    limit = request.limit if request.HasField("limit") else None
    asked = [request.user_query, request.dialect, request.engine, limit, request.offset]
    return _digest([project, asked, parameters, *sorted(request.tables.items())])


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False).encode()).hexdigest()


async def prepare(
    request: pb.SubmitQueryRequest, project: str, tables: Tables, engine: Engine
) -> Submission:
    """Checks a request as a whole.

    Raises:
        InvalidError: A field or the query is not valid.
        QueryError: The query cannot run; with line and column where they are known.
    """
    statement = await asyncio.to_thread(_parse, request)
    resolved = tuple(
        [
            await _find(name, project, tables, engine, statement, request.tables)
            for name in statement.tables
        ]
    )
    offset, limit = _bounds(request, statement)
    schemas = {
        name: table.all_columns for name, table in zip(statement.tables, resolved, strict=True)
    }

    def sql_for(names: Sequence[tuple[str, ...]]) -> str:
        by_name = dict(zip(statement.tables, names, strict=True))
        return converted(statement, engine.dialect, by_name, limit=limit, offset=offset)

    def check() -> tuple[str, tuple[Column, ...]]:
        # Without files, so under names of their own: Trino keeps what it was given.
        names = relations(resolved, engine, without_files=True)
        sources = tuple(
            SourceTable(
                relation=relation,
                columns=table.columns,
                partitions=table.partitions,
                format=table.format,
                stored=table.kind == "trino",
            )
            for table, relation in zip(resolved, names, strict=True)
        )
        query = Query(sql=sql_for(names), tables=sources, limit=limit, dialect=statement.dialect)
        try:
            columns = engine.validate(query)
        except QueryError as error:
            raise located(error, statement, schemas) from None
        return sql_for(relations(resolved, engine)), columns

    sql, columns = await asyncio.to_thread(check)
    return Submission(
        statement=statement,
        tables=resolved,
        converted_query=sql,
        offset=offset,
        limit=limit,
        columns=columns,
    )


def source_records(tables: Iterable[FoundTable]) -> list[dict[str, str]]:
    """Tables as the view `fusion_model` and lineage have them, the first of many."""
    return [
        {
            "name": table.name,
            "fqn": table.fully_qualified_name,
            "model_id": table.model_id or table.version[:40],
            "trino": table.target if table.kind == "trino" else "",
            "version": table.version[:40],
        }
        for table in islice(tables, MAX_LINEAGE_TABLES)
    ]


def completed_record(
    spec: pb.QuerySpec, tables: tuple[FoundTable, ...], columns: tuple[Column, ...]
) -> dict[str, object]:
    """What is recorded of a query whose spec was completed when it started, with its result.

    Of other queries it is recorded at their submission.
    """
    record: dict[str, object] = {
        "converted_query": cut(spec.converted_query, MAX_RECORDED_TEXT),
        "offset": spec.offset,
        "limit": spec.limit if spec.HasField("limit") else None,
        "tables": source_records(tables),
    }
    if configuration.openlineage_url():
        submission = Submission(
            statement=_parse(spec.request),
            tables=tables,
            converted_query=spec.converted_query,
            offset=spec.offset,
            limit=spec.limit if spec.HasField("limit") else None,
            columns=columns,
        )
        record["lineage"] = origins_of(submission)
    return record


def origins_of(submission: Submission) -> dict[str, object]:
    """The result's columns, and which columns of which sources each comes from, for lineage.

    A source is its place among the tables. What is too large is left out.
    """
    statement, tables = submission.statement, submission.tables[:MAX_LINEAGE_TABLES]
    schemas = {
        name: table.all_columns for name, table in zip(statement.tables, tables, strict=False)
    }
    places = {name: place for place, name in enumerate(statement.tables)}
    origins = {
        column: [
            [places[name], field] for name, field in sources if places[name] < MAX_LINEAGE_TABLES
        ]
        for column, sources in lineage(statement, schemas).items()
    }
    columns = [{"name": column.name, "type": column.type} for column in submission.columns]
    recorded: dict[str, object] = {"columns": columns, "origins": origins}
    return recorded if len(json.dumps(recorded)) <= MAX_LINEAGE_BYTES else {}


async def is_parsed(
    request: pb.SubmitQueryRequest, project: str, tables: Tables, expected: Sequence[str]
) -> bool:
    """Whether a query names tables that are still to come; it is parsed, the others are found.

    Raises:
        InvalidError: A field or the query is not valid.
        QueryError: A table is neither there nor to come.
    """
    statement = await asyncio.to_thread(_parse, request)
    present = [name for name in statement.tables if name.parts[0] not in expected]
    if len(present) == len(statement.tables):
        return False
    for name in present:
        await tables.find(name, project, statement.tree)
    return True


def relations(
    tables: Iterable[FoundTable], engine: Engine, *, without_files: bool = False
) -> tuple[tuple[str, ...], ...]:
    """What the SQL for an engine calls each table.

    Args:
        tables: The tables.
        engine: The engine.
        without_files: Whether to name tables that have the same columns and no rows.
    """
    names = []
    for table in tables:
        if table.kind == "trino":
            names.append(table.stored_as)
        elif isinstance(engine, TrinoEngine):
            known = [[column.name, column.type] for column in table.all_columns]
            content = known if without_files else [table.target, table.version]
            names.append(
                engine.relation(f"{'e' if without_files else 'v'}_{_digest(content)[:40]}")
            )
        else:
            names.append((table.name,))
    return tuple(names)


async def _find(
    name: TableName,
    project: str,
    tables: Tables,
    engine: Engine,
    statement: Statement,
    others: Mapping[str, str],
) -> FoundTable:
    if other := others.get(name.parts[0]):
        # The text stays as it is: what the name stands for is a value.
        place, _, version = other.partition("@")
        parts = ("results", other) if is_job_id(other) else (*place.split("."), *name.parts[1:])
        meant = TableName(parts=parts, version=version or name.version, positions=name.positions)
        return replace(await tables.find(meant, project, statement.tree), name=name.text)
    if isinstance(engine, TrinoEngine) and len(name.parts) == 3:
        # There are the files of every project, under names that Trino lists.
        with contextlib.suppress(ConflictError):
            if engine.relation("")[:2] == tuple(part.lower() for part in name.parts[:2]):
                raise error_at(name, f"there is no table `{name.text}`")
        return FoundTable(
            name=name.text, kind="trino", target=name.text, version="", stored_as=name.parts
        )
    return await tables.find(name, project, statement.tree)


def _parse(request: pb.SubmitQueryRequest) -> Statement:
    violations = Violations()
    if not request.user_query.strip():
        violations.add("user_query", "is empty; write one SELECT")
    if _CONTROL.search(request.user_query):
        violations.add("user_query", "must not hold control characters other than tab and newline")
    size = len(request.user_query.encode())
    if size > MAX_TEXT:
        violations.add("user_query", f"has {size:,} bytes; at most {MAX_TEXT:,} may be")
    for field in ("limit", "offset"):
        if getattr(request, field) < 0:
            violations.add(field, f"is {getattr(request, field)}; it is at least 0")
    for field, kind in _ENUMS.items():
        if getattr(request, field) not in kind.values():
            violations.add(field, f"{getattr(request, field)} is no value of the enum")
    parameters = {}
    for index, value in enumerate(request.parameters):
        if value.name in parameters:
            violations.add(f"parameters[{index}].name", f"`{cut(value.name, 60)}` is there twice")
        try:
            parameters[value.name] = _parameter(value)
        except (ValueError, KeyError) as error:
            known = ", ".join(filter(None, _TYPES))
            problem = (
                f"is none of {known}"
                if isinstance(error, KeyError)
                else f"`{cut(value.value, 60)}` is no {value.type}"
            )
            field = "type" if isinstance(error, KeyError) else "value"
            violations.add(f"parameters[{index}].{field}", problem)
    violations.check()
    return parse(request.user_query, dialect=DIALECTS[request.dialect], parameters=parameters)


def _parameter(value: pb.QueryParameter) -> Parameter:
    kind, text = _TYPES[value.type.upper()], value.value
    if not value.HasField("value"):
        return Parameter(type=ParameterType.NULL, value=None)
    match kind:
        case ParameterType.WHOLE:
            return Parameter(type=kind, value=int(text))
        case ParameterType.NUMBER:
            return Parameter(type=kind, value=float(text))
        case ParameterType.FLAG:
            return Parameter(type=kind, value=_flag(text))
        case ParameterType.DATE:
            return Parameter(type=kind, value=date.fromisoformat(text))
        case ParameterType.TIMESTAMP:
            return Parameter(type=kind, value=datetime.fromisoformat(text))
    return Parameter(type=kind, value=text)


def _flag(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(text)
    return text.lower() == "true"


def _bounds(request: pb.SubmitQueryRequest, statement: Statement) -> tuple[int, int | None]:
    """Offset and limit of the query and of the request together, the query's first."""
    limit = statement.limit
    if limit is not None:
        limit = max(0, limit - request.offset)
    if request.HasField("limit"):
        limit = request.limit if limit is None else min(limit, request.limit)
    return statement.offset + request.offset, limit


def spec_of(
    request: pb.SubmitQueryRequest, submission: Submission, project: str, key: bytes
) -> pb.QuerySpec:
    """What is recorded of a query, signed.

    Raises:
        InvalidError: Its tables have too many files.
    """
    spec = pb.QuerySpec(
        request=request,
        converted_query=submission.converted_query,
        offset=submission.offset,
        limit=submission.limit,
        sources=to_json(submission.tables),
        key=submission.key(request, project),
        project=project,
    )
    for field in ("request_id", "wait", "max_age", "format", "reuse"):
        spec.request.ClearField(field)
    if len(spec.sources) > MAX_SPEC_BYTES:
        raise InvalidError(
            "user_query: its tables have too many files; name fewer partitions, or import the "
            "files as a dataset",
            reason="TOO_MANY_FILES",
        )
    spec.signature = _signature(spec, key)
    return spec


def check_signature(spec: pb.QuerySpec, key: bytes) -> None:
    """Raises `ConflictError` if the service did not make the spec."""
    unsigned = pb.QuerySpec()
    unsigned.CopyFrom(spec)
    unsigned.ClearField("signature")
    if not hmac.compare_digest(spec.signature, _signature(unsigned, key)):
        raise ConflictError(
            "the query was not submitted by this installation; submit it with SubmitQuery",
            reason="NOT_SIGNED",
        )


def _signature(spec: pb.QuerySpec, key: bytes) -> bytes:
    return hmac.digest(key, spec.SerializeToString(deterministic=True), "sha256")


def engine_for(number: int, config: Config, duckdb: Engine) -> Engine:
    """The engine that a request names.

    Raises:
        InvalidError: The operator has named no Trino.
    """
    if number != pb.QUERY_ENGINE_TRINO:
        return duckdb
    if not config.trino:
        raise InvalidError(
            "engine: this installation has no Trino; its operator sets VISTAFLOW_QUERY_TRINO"
        )
    return trino_engine(config)


def trino_engine(config: Config) -> Engine:
    """The Trino that the operator has named."""
    return TrinoEngine(config.trino, user=config.trino_user, warehouse=config.warehouse)


def secret_path(home: Path) -> Path:
    """Where the key that signs specs is."""
    return home / "keys" / "query"
