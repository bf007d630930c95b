"""`trials.parquet`: what a study tried, in order.

Columns: `number`, `origin`, a column `x.<name>` a parameter, `y.<name>` a response (null where the
run failed), `objective`, `violation` (the sum of misses, each in spreads of its constraint over the
trials; 0 where all are met), `feasible`, `failure`, `message`, `log`, `mean.<name>` and
`sd.<name>` a response (what was predicted before the run; null where nothing was), `cached`,
`seconds`, `source` (where the design took it from; null if it was run for the kit).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vistaflow_services.optimize.domain import Trial, miss_scale
from vistaflow_services.search.misses import MissScale

ROW_GROUP = 1024
"""Rows that a reader holds at a time."""

PARAMETER, RESPONSE, MEAN, DEVIATION = "x.", "y.", "mean.", "sd."
"""Prefixes of the columns that a study names."""


def write_trials(
    path: Path, trials: Sequence[Trial], *, parameters: Sequence[str], responses: Sequence[str]
) -> None:
    """Writes the trials at `path`."""
    table = trial_table(
        trials, parameters=parameters, responses=responses, scale=miss_scale(trials)
    )
    pq.write_table(table, path, row_group_size=ROW_GROUP, compression="zstd")


def trial_table(
    trials: Sequence[Trial],
    *,
    parameters: Sequence[str],
    responses: Sequence[str],
    scale: MissScale,
) -> pa.Table:
    """The trials as the table has them, their misses in the units of `scale`."""
    columns: dict[str, Any] = {
        "number": pa.array([trial.number for trial in trials], pa.int64()),
        "origin": pa.array([trial.origin for trial in trials], pa.string()),
    }
    for name in parameters:
        columns[PARAMETER + name] = pa.array([trial.point.get(name) for trial in trials])
    for name in responses:
        values = [(trial.responses or {}).get(name) for trial in trials]
        columns[RESPONSE + name] = pa.array(values, pa.float64())
    assessed = [trial.assessment for trial in trials]
    columns["objective"] = pa.array(
        [assessment and assessment.objective for assessment in assessed],
        pa.float64(),
        from_pandas=True,
    )
    missed = [assessment and scale.total(assessment.excesses) for assessment in assessed]
    columns["violation"] = pa.array(
        [miss and (math.inf if miss[0] else miss[1]) for miss in missed], pa.float64()
    )
    columns["feasible"] = pa.array([trial.feasible for trial in trials], pa.bool_())
    columns["failure"] = pa.array([trial.failure for trial in trials], pa.string())
    for name in ("message", "log", "source"):
        columns[name] = pa.array([getattr(trial, name) or None for trial in trials], pa.string())
    for index, prefix in enumerate((MEAN, DEVIATION)):
        for name in responses:
            predictions = [trial.predicted.get(name) for trial in trials]
            columns[prefix + name] = pa.array(
                [prediction and prediction[index] for prediction in predictions], pa.float64()
            )
    columns["cached"] = pa.array([trial.cached for trial in trials], pa.bool_())
    columns["seconds"] = pa.array([trial.seconds for trial in trials], pa.float64())
    return pa.table(columns)


def read_trials(path: Path, *, offset: int = 0, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Rows from `offset` on, at most `limit`, and whether there are more."""
    rows: list[dict[str, Any]] = []
    for row in _rows_from(path, offset):
        if len(rows) == limit:
            return rows, True
        rows.append(row)
    return rows, False


def named(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The values of the columns with a prefix, by the names behind it; nulls are left out."""
    return {
        name.removeprefix(prefix): value
        for name, value in row.items()
        if name.startswith(prefix) and value is not None
    }


def _rows_from(path: Path, offset: int) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            if offset >= size:
                offset -= size
                continue
            yield from file.read_row_group(group).slice(offset).to_pylist()
            offset = 0
