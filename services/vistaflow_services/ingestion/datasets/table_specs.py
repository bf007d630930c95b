"""Tables to import: messages as what the library of datasets takes, checked before a job exists."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from vistaflow.api.datasets.v1 import datasets_pb2
from vistaflow.api.ingestion.v1 import ingestion_pb2 as pb
from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.names import is_dataset_alias, is_dataset_name
from vistaflow_services.datasets.build import MAX_TABLES, TableSpec
from vistaflow_services.datasets.manifest import Column, Reference
from vistaflow_services.datasets.quality import (
    MAX_RULES,
    Dedupe,
    Rule,
    Scalar,
    check_pattern,
    rules_sql,
    winners_sql,
)
from vistaflow_services.datasets.sources import Source, check_names, check_type

MAX_KEY = 16
"""Most columns of a key."""

NAME_HINT = "must be 1 to 63 of a-z 0-9 _ and begin with a letter"

_KEEP = {
    pb.DEDUPE_KEEP_UNSPECIFIED: "first",
    pb.DEDUPE_KEEP_FIRST: "first",
    pb.DEDUPE_KEEP_NEWEST: "newest",
    pb.DEDUPE_KEEP_BEST: "best",
}


def table_name(spec: pb.ImportSpec, table: pb.ImportTable) -> str:
    """The name of a table: the dataset's if it is the only one and has none."""
    return table.name or (spec.dataset if len(spec.tables) == 1 else "")


def table_spec(table: pb.ImportTable, name: str, source: Source) -> TableSpec:
    """A table of a request, which `check_spec` has accepted."""
    return TableSpec(
        name=name,
        source=source,
        primary_key=tuple(table.primary_key),
        references=tuple(map(_reference, table.references)),
        dedupe=_dedupe(table.dedupe) if table.HasField("dedupe") else None,
        rules=tuple(map(_rule, table.rules)),
    )


def check_spec(spec: pb.ImportSpec) -> None:
    """Checks all of a request that can be known without its data.

    Raises:
        InvalidError: One violation for each mistake.
    """
    violations = Violations()
    if not is_dataset_name(spec.dataset):
        violations.add("spec.dataset", NAME_HINT)
    if spec.alias and not is_dataset_alias(spec.alias):
        violations.add(
            "spec.alias", "must be 1 to 63 of a-z 0-9 _ - beginning with a letter, not `latest`"
        )
    if bool(spec.tables) == bool(spec.conversion):
        violations.add("spec.tables", "give either tables or a conversion with all its tables")
    if len(spec.tables) > MAX_TABLES:
        violations.add("spec.tables", f"{len(spec.tables)} given; at most {MAX_TABLES} may be")
    names = [table_name(spec, table) for table in spec.tables[:MAX_TABLES]]
    for index, (table, name) in enumerate(zip(spec.tables, names, strict=False)):
        field = f"spec.tables[{index}]"
        if not is_dataset_name(name):
            if name != spec.dataset or table.name:  # else the dataset's own mistake
                violations.add(f"{field}.name", NAME_HINT)
        elif name in names[:index]:
            violations.add(f"{field}.name", f"`{name}` is the name of an earlier table, too")
        _check_table(violations, table, field, names)
    violations.check()


def _check_table(
    violations: Violations, table: pb.ImportTable, field: str, names: Sequence[str]
) -> None:
    for name, kind in table.types.items():
        with _noted(violations):
            check_type(kind, f"{field}.types.{name[:60]}")
    check_key(violations, table.primary_key, f"{field}.primary_key")
    for index, reference in enumerate(table.references):
        where = f"{field}.references[{index}]"
        if reference.table not in names:
            violations.add(f"{where}.table", f"there is no table `{reference.table[:60]}`")
        if not 1 <= len(reference.columns) <= MAX_KEY:
            violations.add(f"{where}.columns", f"must be 1 to {MAX_KEY} columns")
        if len(reference.columns) != len(reference.key):
            violations.add(f"{where}.key", "must have as many columns as `columns`")
    if table.HasField("dedupe"):
        _check_dedupe(violations, table, f"{field}.dedupe")
    if len(table.rules) > MAX_RULES:
        violations.add(f"{field}.rules", f"are {len(table.rules)}; at most {MAX_RULES} may be")
    seen = set[str]()
    for index, rule in enumerate(table.rules[:MAX_RULES]):
        if rule.name in seen:
            violations.add(f"{field}.rules[{index}].name", "is the name of an earlier rule, too")
        seen.add(rule.name)
        _check_rule(violations, rule, f"{field}.rules[{index}]")
    if not table.source.WhichOneof("source"):
        violations.add(f"{field}.source", "is missing; give files, a job or a dataset")
    if table.source.HasField("files"):
        _check_files(violations, table.source.files, f"{field}.source.files")


def _check_files(violations: Violations, files: pb.RowFiles, field: str) -> None:
    if files.format not in pb.RowFormat.values():
        violations.add(f"{field}.format", f"{files.format} is no value of the enum")
    if files.delimiter not in ("", ",", ";", "\t", "|"):
        violations.add(f"{field}.delimiter", "must be a comma, a semicolon, a tab or |")
    if files.column_names:
        with _noted(violations):
            check_names(files.column_names, f"{field}.column_names")
    if files.format not in (pb.ROW_FORMAT_UNSPECIFIED, pb.ROW_FORMAT_CSV):
        for option in ("delimiter", "null_texts", "column_names"):
            if getattr(files, option):
                violations.add(f"{field}.{option}", "is for CSV only; leave it out")


def check_key(violations: Violations, columns: Sequence[str], field: str) -> None:
    """Notes what is wrong with the columns of a key."""
    if len(columns) > MAX_KEY:
        violations.add(field, f"has {len(columns)} columns; at most {MAX_KEY} are allowed")
    if len({column.casefold() for column in columns}) < len(columns) or "" in columns:
        violations.add(field, "has a column twice, or an empty name")


def _check_dedupe(violations: Violations, table: pb.ImportTable, field: str) -> None:
    if table.dedupe.keep not in _KEEP:
        violations.add(f"{field}.keep", f"{table.dedupe.keep} is no value of the enum")
        return
    check_key(violations, table.dedupe.key, f"{field}.key")
    dedupe, key = _dedupe(table.dedupe), tuple(table.primary_key)
    with _noted(violations, "dedupe", field):
        names = _names_in(dedupe.by, "dedupe.by")
        winners_sql(dedupe, key, _columns({*names, *dedupe.key, *key}), "t")


def _check_rule(violations: Violations, rule: pb.QualityRule, field: str) -> None:
    if any(value.WhichOneof("value") is None for value in rule.allowed):
        violations.add(f"{field}.allowed", "has an empty value; not_null is for missing ones")
        return
    with _noted(violations, "rules[0]", field):
        names = _names_in(rule.expression, "rules[0].expression")
        rules_sql([_rule(rule)], (), _columns({*names, rule.column}))
    if rule.pattern:
        with _noted(violations):
            check_pattern(rule.pattern, f"{field}.pattern")


def _columns(names: set[str]) -> list[Column]:
    """Columns of these names; their types are known later."""
    return [Column(name=name, type="VARCHAR") for name in sorted(names)]


@contextlib.contextmanager
def _noted(violations: Violations, library_field: str = "", field: str = "") -> Iterator[None]:
    """Notes the mistakes that a block raises, with `field` in the place of `library_field`."""
    try:
        yield
    except InvalidError as error:
        for violation in error.violations:
            rest = violation.field.removeprefix(library_field)
            violations.add(f"{field}{rest}", violation.description)


def _reference(reference: datasets_pb2.DatasetReference) -> Reference:
    return Reference(
        columns=tuple(reference.columns), table=reference.table, key=tuple(reference.key)
    )


def _dedupe(dedupe: pb.Dedupe) -> Dedupe:
    return Dedupe(
        keep=_KEEP[dedupe.keep],  # type: ignore[arg-type]
        by=dedupe.by,
        key=tuple(dedupe.key),
        record=not dedupe.drop,
    )


def _rule(rule: pb.QualityRule) -> Rule:
    return Rule(
        name=rule.name,
        expression=rule.expression,
        column=rule.column,
        minimum=_value(rule.minimum),
        maximum=_value(rule.maximum),
        pattern=rule.pattern,
        min_length=rule.min_length if rule.HasField("min_length") else None,
        max_length=rule.max_length if rule.HasField("max_length") else None,
        allowed=tuple(value for value in map(_value, rule.allowed) if value is not None),
        not_null=rule.not_null,
    )


def _value(value: pb.RuleValue) -> Scalar | None:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None


def _names_in(expression: str, field: str) -> set[str]:
    """The names of the columns in an expression, which may be empty."""
    if not expression:
        return set()
    from vistaflow_services.datasets.expressions import column_names

    return column_names(expression, field)
