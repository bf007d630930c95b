"""Tables of simulator rows: as an evaluated design holds them, and as models learn from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.space import Choice, Columns, Kind, Parameter, Point, Space
from vistaflow_services.surrogates.surrogate import Floats, Integers
from vistaflow_services.surrogates.transforms import Transform, forward

_METADATA = b"vistaflow.dataset"


@dataclass(frozen=True, kw_only=True, eq=False)
class DesignRows:
    """The rows of an evaluated design, failures and gaps included."""

    row_ids: Integers
    points: tuple[Mapping[str, Any], ...]
    """Values by parameter name; None where missing."""
    responses: dict[str, Floats]
    """Values (n,) by response name; nan where missing."""
    failures: tuple[str | None, ...]
    """How each run failed, or None."""


def read_design(path: Path, space: Space) -> DesignRows:
    """Reads a design's Parquet file: `row_id`, `x.<parameter>`, `y.<response>`, `failure`.

    Raises:
        InvalidError: If a parameter's column is not there.
    """
    table = pq.read_table(path)
    names = table.column_names
    missing = [name for name in space.names if f"x.{name}" not in names]
    if missing:
        raise InvalidError(f"the design has no column for {', '.join(missing)}")
    columns = {name: table[f"x.{name}"].to_pylist() for name in space.names}
    count = table.num_rows
    return DesignRows(
        row_ids=(
            np.asarray(table["row_id"].to_numpy(), np.int64)
            if "row_id" in names
            else np.arange(count)
        ),
        points=tuple(
            {name: values[row] for name, values in columns.items()} for row in range(count)
        ),
        responses={
            name[2:]: np.asarray(
                [np.nan if value is None else value for value in table[name].to_pylist()], float
            )
            for name in names
            if name.startswith("y.")
        },
        failures=tuple(table["failure"].to_pylist() if "failure" in names else [None] * count),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """Rows fit to learn from, each for training or for the test."""

    space: Space
    row_ids: Integers
    """The design's number of each row (n,)."""
    columns: Columns
    """Canonical parameter values by name."""
    responses: dict[str, Floats]
    """Values by response name, in the response's unit; nan where a row lacks the response."""
    training: NDArray[np.bool_]
    """Whether a row is for training; the others are for the test."""
    transforms: dict[str, Transform]
    """How each response is laid out for the models."""
    units: dict[str, str]
    """The responses' units."""

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def points(self) -> list[Point]:
        """The rows' points."""
        return self.space.points(self.columns)

    @cached_property
    def features(self) -> Floats:
        """Inputs of models (n, p), named by `Space.feature_names`."""
        return np.ascontiguousarray(self.space.features_columns(self.columns)[0], np.float64)

    def present(self, response: str) -> NDArray[np.bool_]:
        """Which rows have a response (n,)."""
        return np.isfinite(self.responses[response])

    def modelled(self, response: str) -> Floats:
        """A response as the models see it (n,); nan where it is missing."""
        return forward(self.transforms[response], self.responses[response])

    def take(self, rows: NDArray[np.bool_]) -> Dataset:
        """The dataset of some rows."""
        return replace(
            self,
            row_ids=self.row_ids[rows],
            columns={name: values[rows] for name, values in self.columns.items()},
            responses={name: values[rows] for name, values in self.responses.items()},
            training=self.training[rows],
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that the rows hold, the split and the transforms included."""
        digest = hashlib.sha256(self._described())
        for name in self.space.names:
            digest.update(json.dumps([name, self.columns[name].tolist()]).encode())
        for name, values in self.responses.items():
            digest.update(json.dumps(name).encode() + values.astype("<f8").tobytes())
        digest.update(self.row_ids.astype("<i8").tobytes() + self.training.astype("u1").tobytes())
        return digest.hexdigest()

    def _described(self) -> bytes:
        return json.dumps(
            {
                "format": 1,
                "space": self.space.to_dict(),
                "transforms": {name: str(transform) for name, transform in self.transforms.items()},
                "units": self.units,
            },
            sort_keys=True,
        ).encode()

    def write(self, path: Path) -> None:
        """Writes the dataset as Parquet.

        Columns are `row_id`, `split` (train or test), `x.<parameter>`, `y.<response>`, and
        `f.<feature>`, what models are given for the parameters.
        """
        table: dict[str, Any] = {
            "row_id": self.row_ids,
            "split": np.where(self.training, "train", "test").tolist(),
        }
        table |= {f"x.{name}": self.columns[name].tolist() for name in self.space.names}
        table |= {
            f"y.{name}": pa.array(values, from_pandas=True)  # missing is null, not a number
            for name, values in self.responses.items()
        }
        names = self.space.feature_names
        table |= {f"f.{name}": self.features[:, index] for index, name in enumerate(names)}
        described = pa.table(table).replace_schema_metadata({_METADATA: self._described()})
        pq.write_table(described, path, compression="zstd")

    @classmethod
    def read(cls, path: Path) -> Dataset:
        """Reads what `write` wrote."""
        table = pq.read_table(path)
        described = (table.schema.metadata or {}).get(_METADATA)
        if described is None:
            raise InvalidError("the file is no training table; make one with Preprocess")
        description = json.loads(described)
        space = Space.from_dict(description["space"])
        return cls(
            space=space,
            row_ids=np.asarray(table["row_id"].to_numpy(), np.int64),
            columns={parameter.name: _column(table, parameter) for parameter in space.parameters},
            responses={
                name[2:]: np.asarray(table[name].to_numpy(), np.float64)
                for name in table.column_names
                if name.startswith("y.")
            },
            training=np.asarray(table["split"].to_pylist()) == "train",
            transforms={
                name: Transform(transform) for name, transform in description["transforms"].items()
            },
            units=description["units"],
        )


def _column(table: pa.Table, parameter: Parameter) -> NDArray[Any]:
    values = table[f"x.{parameter.name}"].to_pylist()
    if parameter.choices:
        return np.asarray(values)
    return np.asarray(values, np.int64 if parameter.kind is Kind.INTEGER else np.float64)


def dataset_of(
    space: Space,
    points: Sequence[Point],
    responses: Mapping[str, Floats],
    *,
    row_ids: Integers,
    training: NDArray[np.bool_],
    transforms: Mapping[str, Transform],
    units: Mapping[str, str],
) -> Dataset:
    """A dataset of canonical points."""
    return Dataset(
        space=space,
        row_ids=np.asarray(row_ids, np.int64),
        columns=space.columns(points),
        responses={name: np.asarray(values, np.float64) for name, values in responses.items()},
        training=np.asarray(training, np.bool_),
        transforms=dict(transforms),
        units={name: units.get(name, "") for name in responses},
    )


def held_parameters(dataset: Dataset) -> dict[str, Choice]:
    """The parameters that have one value in all training rows, with it."""
    held = {}
    for name, values in dataset.columns.items():
        seen = values[dataset.training].tolist()
        if seen and all(value == seen[0] for value in seen):
            held[name] = seen[0]
    return held
