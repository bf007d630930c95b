"""From the rows of a design to rows fit to learn from: cleaning, outliers, the split.

    symbol       shape  unit         meaning
    y            (n,)   response's   a response of the usable rows, nan where it is missing
    t(y)         (n,)   1 or y's     y, or log10 y where it spans decades
    deviation           t's          1.4826 median |t - median t|, which estimates the standard
                                     deviation of a normal sample
    outlier      (n,)                |t - median t| > outlier_distance * deviation
    test rows                        test_fraction * n, rows of one point together

Source: Rousseeuw and Croux, "Alternatives to the Median Absolute Deviation", 1993 (the factor).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.decks.definition import NO_RESPONSE
from vistaflow_services.decks.expressions import suggest
from vistaflow_services.decks.space import Point, Space
from vistaflow_services.surrogates.dataset import Dataset, DesignRows, dataset_of
from vistaflow_services.surrogates.extremes import huge_limit, huge_note
from vistaflow_services.surrogates.limits import MAX_TEST_FRACTION, MIN_TRAINING_ROWS
from vistaflow_services.surrogates.logarithms import logarithm_is_better
from vistaflow_services.surrogates.surrogate import Floats
from vistaflow_services.surrogates.transforms import Transform, forward, spans_decades

MIN_TEST_ROWS = 2
_MAD_TO_SD = 1.4826

ROUNDING = 1e-12
"""Part of the largest value up to which values count as the same."""


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """How rows are made fit.

    Raises:
        InvalidError: From the constructor, for a value out of range.
    """

    responses: tuple[str, ...] = ()
    """What to model; empty: every response of the design."""
    test_fraction: float = 0.2
    """Part of the rows held out, 0 to 0.9."""
    seed: int = 0
    """Decides which."""
    drop_outliers: bool = False
    """Whether rows that stand out are dropped; they are counted and kept otherwise."""
    outlier_distance: float = 6.0
    """From how many robust standard deviations off the median a response stands out."""
    log_responses: tuple[str, ...] = ()
    """What to model in its logarithm; empty: what spans decades and is predicted better so;
    `NO_RESPONSE` alone: nothing."""

    def __post_init__(self) -> None:
        violations = Violations()
        if not 0.0 <= self.test_fraction <= MAX_TEST_FRACTION:
            violations.add(
                "test_fraction", f"{self.test_fraction} is not from 0 to {MAX_TEST_FRACTION}"
            )
        if not self.outlier_distance > 0:
            violations.add("outlier_distance", f"{self.outlier_distance} is not above 0")
        for name in ("responses", "log_responses"):
            named: set[str] = set()
            for index, response in enumerate(getattr(self, name)):
                if response in named:
                    violations.add(f"{name}[{index}]", f"`{response}` is named twice")
                named.add(response)
        violations.check()


@dataclass(frozen=True, kw_only=True)
class PreparationReport:
    """What became of the rows."""

    dropped: dict[str, int]
    """Rows dropped by reason: failed, missing, huge, outside_space, duplicate, outlier."""
    outliers: dict[str, list[int]]
    """Row ids that stand out, by response; at most 100 each."""
    constant_parameters: list[str] = field(default_factory=list)
    """Parameters that never vary: the model cannot know what they do."""
    constants: dict[str, float] = field(default_factory=dict)
    """Responses that are the same in every row, with that value: there is nothing to learn."""
    whole: bool = False
    """Whether every point of the space was run: there is nothing left to predict."""
    notes: list[str] = field(default_factory=list)
    """Sentences about responses that are constant or too large in some rows."""


def rows_needed(dimension: int, test_fraction: float) -> int:
    """Fewest usable rows for a model of `dimension` parameters with that part held out."""
    training = max(MIN_TRAINING_ROWS, dimension + 3)
    total = training
    while total - _test_count(total, test_fraction) < training:
        total += 1
    return total


def _test_count(rows: int, test_fraction: float) -> int:
    if test_fraction == 0:
        return 0
    return max(MIN_TEST_ROWS, round(test_fraction * rows))


def prepare(
    rows: DesignRows,
    space: Space,
    how: Preparation,
    units: dict[str, str] | None = None,
    cells: int | None = None,
) -> tuple[Dataset, PreparationReport]:
    """Cleans the rows of a design and splits them.

    Dropped are failed runs, rows with a missing parameter or without any response, rows outside the
    space, exact duplicates and, with `drop_outliers`, outliers; rows in which a response is too
    large to be one (`huge_limit`) are dropped as the failed runs they are. A row that lacks some
    responses stays for the others. Runs of one point with different outcomes are kept and stay on
    one side of the split, so that no test row is also trained on. A response that is the same in
    all rows, or in all that are trained on, is left out and noted.

    Of a space that has `cells` points, all of which were run, any number of rows is enough: there
    is nothing left to predict. Then at most a quarter of the rows are held out.

    Raises:
        InvalidError: For an unknown response, a logarithm of what is not above 0, too few rows
            or too few with some response (says how many are needed).
    """
    names = _responses(rows, how)
    dropped = dict.fromkeys(
        ("failed", "missing", "huge", "outside_space", "duplicate", "outlier"), 0
    )
    notes: list[str] = []
    usable = _usable(rows, space, names, dropped, notes)
    constant = _constant(usable.points, space)
    varied = space.dimension - len(constant)
    whole = cells is not None and _distinct(usable.points) >= cells

    def check_count() -> None:
        """Counted when rows were dropped, and again when outliers were."""
        if not whole:
            count = len(usable.points)
            _check_count(count, varied, how, dropped, len(rows.row_ids), cells, notes)

    check_count()
    # Of a whole space at most a quarter is held out, so some of each response is for training.
    needed = len(usable.points) // 2 if whole else rows_needed(varied, how.test_fraction)
    _check_responses(usable.responses, needed, notes)
    every = np.ones(len(usable.points), np.bool_)
    constants = _drop_constants(usable.responses, every, notes)
    transforms = _transforms(usable.responses, how)
    strange = _outliers(usable.responses, transforms, how.outlier_distance)
    outliers = {
        name: rows.row_ids[usable.places[flags]][:100].tolist() for name, flags in strange.items()
    }
    if how.drop_outliers:
        out = np.sum([np.zeros(len(usable.points)), *strange.values()], axis=0) > 0
        dropped["outlier"] = int(np.count_nonzero(out))
        usable = usable.without(out)
        check_count()
        # What spans decades may do so by its outliers alone.
        transforms = _transforms(usable.responses, how)
    held_out = _test_count(len(usable.points), how.test_fraction)
    if whole:
        held_out = min(held_out, len(usable.points) // 4)
    training = _split(usable.points, held_out, how.seed)
    # What varies in the test rows alone cannot be learnt.
    constants |= _drop_constants(usable.responses, training, notes)
    if not how.log_responses:
        features = np.asarray(space.features_columns(space.columns(usable.points))[0], np.float64)
        transforms = _better_transforms(
            features[training],
            {name: values[training] for name, values in usable.responses.items()},
            transforms,
            how.seed,
            notes,
        )
    dataset = dataset_of(
        space,
        usable.points,
        usable.responses,
        row_ids=rows.row_ids[usable.places],
        training=training,
        transforms={name: transforms[name] for name in usable.responses},
        units=units or {},
    )
    return dataset, PreparationReport(
        dropped={reason: count for reason, count in dropped.items() if count},
        outliers={name: outlier for name, outlier in outliers.items() if outlier},
        constant_parameters=constant,
        constants=constants,
        whole=whole,
        notes=notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Usable:
    """The n rows of a design that something can be learnt from."""

    places: NDArray[np.int64]
    """Where they are among the rows of the design (n,)."""

    points: list[Point]
    """Their canonical points."""

    responses: dict[str, Floats]
    """By name, their responses (n,), nan where missing; constant ones are taken out."""

    def without(self, out: NDArray[np.bool_]) -> _Usable:
        """The rows that are not `out` (n,)."""
        return _Usable(
            places=self.places[~out],
            points=[point for point, drop in zip(self.points, out, strict=True) if not drop],
            responses={name: values[~out] for name, values in self.responses.items()},
        )


def _responses(rows: DesignRows, how: Preparation) -> list[str]:
    violations = Violations()
    available = list(rows.responses)
    for index, response in enumerate(how.responses):
        if response not in available:
            violations.add(
                f"responses[{index}]",
                f"the design has no `{response}`{suggest(response, available)}",
            )
    names = list(how.responses) or available
    for index, logarithm in enumerate(_logarithms(how, names)):
        if logarithm not in names:
            violations.add(
                f"log_responses[{index}]",
                f"`{logarithm}` is not modelled{suggest(logarithm, names)}",
            )
    if not available:
        violations.add("design", "it has no responses; run it first (EvaluateDesign)")
    violations.check()
    return names


def _logarithms(how: Preparation, names: Sequence[str]) -> tuple[str, ...]:
    """The responses that are asked to be modelled in their logarithm."""
    if how.log_responses == (NO_RESPONSE,) and NO_RESPONSE not in names:
        return ()
    return how.log_responses


def _usable(
    rows: DesignRows,
    space: Space,
    names: Sequence[str],
    dropped: dict[str, int],
    notes: list[str],
) -> _Usable:
    """Rows that something can be learnt from, each once; counts and notes what is dropped."""
    values = np.column_stack([rows.responses[name] for name in names])
    present = np.isfinite(values)
    ran = present & np.array([failure is None for failure in rows.failures])[:, None]
    huge = ran & (np.abs(values) > [huge_limit(values[ran[:, j], j]) for j in range(len(names))])
    for j, name in enumerate(names):
        strange = [
            (int(rows.row_ids[row]), float(values[row, j])) for row in np.flatnonzero(huge[:, j])
        ]
        if strange:
            notes.append(huge_note(name, strange, values[ran[:, j] & ~huge[:, j], j]))
    values = np.where(present, values, np.nan)
    places: list[int] = []
    points: list[Point] = []
    seen: set[tuple[str, bytes]] = set()
    for index, point in enumerate(rows.points):
        if rows.failures[index]:
            dropped["failed"] += 1
            continue
        if not present[index].any() or any(point[name] is None for name in space.names):
            dropped["missing"] += 1
            continue
        if huge[index].any():
            dropped["huge"] += 1
            continue
        try:
            canonical = space.check(point)
        except InvalidError:
            dropped["outside_space"] += 1
            continue
        key = json.dumps(canonical, sort_keys=True), values[index].tobytes()
        if key in seen:
            dropped["duplicate"] += 1
            continue
        seen.add(key)
        places.append(index)
        points.append(canonical)
    responses = {name: values[places, j] for j, name in enumerate(names)}
    return _Usable(places=np.asarray(places, np.int64), points=points, responses=responses)


def _constant(points: Sequence[Point], space: Space) -> list[str]:
    """Parameters that have one value in all rows."""
    if len(points) < 2:
        return []
    return [name for name in space.names if len({point[name] for point in points}) == 1]


def _distinct(points: Sequence[Point]) -> int:
    return len({json.dumps(point, sort_keys=True) for point in points})


def _check_count(
    count: int,
    dimension: int,
    how: Preparation,
    dropped: dict[str, int],
    total: int,
    cells: int | None,
    notes: Sequence[str],
) -> None:
    needed = rows_needed(dimension, how.test_fraction)
    if count >= needed:
        return
    lost = ", ".join(f"{many} {reason}" for reason, many in dropped.items() if many)
    explanation = f" ({total} in the design; dropped: {lost})" if lost else ""
    violations = Violations()
    advice = f"make the design larger, {10 * dimension} rows are a good start"
    if cells is not None and cells <= 10 * dimension:
        advice = f"run all {cells} points that the space has, with full_factorial or a larger size"
    violations.add(
        "design",
        f"{count} usable rows{explanation} are too few: a model of {dimension} parameters with "
        + "; ".join(
            [f"{how.test_fraction:g} of the rows held out needs at least {needed}", advice, *notes]
        ),
    )
    violations.check()


def _check_responses(responses: Mapping[str, Floats], needed: int, notes: list[str]) -> None:
    """Refuses responses that too few rows have, and notes those that some rows lack."""
    violations = Violations()
    for name, values in responses.items():
        count = int(np.isfinite(values).sum())
        if count < needed:
            violations.add(
                f"responses.{name}",
                f"{count} of {len(values)} usable rows have this response, and a model of it needs "
                f"at least {needed}; make the design larger, or leave the response out",
            )
        elif count < len(values):
            notes.append(f"{len(values) - count} of {len(values)} rows have no `{name}`")
    violations.check()


def _drop_constants(
    responses: dict[str, Floats], rows: NDArray[np.bool_], notes: list[str]
) -> dict[str, float]:
    """Takes out the responses that are the same in all of some rows, up to rounding."""
    constants = {}
    for name, values in list(responses.items()):
        seen = values[rows & np.isfinite(values)]
        if not len(seen) or _varies(seen):
            continue
        constants[name] = float(seen[0])
        del responses[name]
        off = int(np.count_nonzero(values[np.isfinite(values)] != seen[0]))
        off = 0 if rows.all() else off
        where = "every row" if not off else f"all but {off} of {len(values)} rows"
        notes.append(f"`{name}` is {seen[0]:g} in {where}: it is not modelled")
    return constants


def _varies(values: Floats) -> bool:
    """Whether values differ by more than rounding."""
    largest = float(np.abs(values).max())
    # Divided first: the distance of two finite numbers need not be one.
    return largest > 0 and bool(np.ptp(values / largest) > ROUNDING)


def _transforms(responses: dict[str, Floats], how: Preparation) -> dict[str, Transform]:
    violations = Violations()
    logarithms = _logarithms(how, list(responses))
    for index, name in enumerate(logarithms):
        if name in responses and np.nanmin(responses[name]) <= 0:
            violations.add(
                f"log_responses[{index}]",
                f"`{name}` is {np.nanmin(responses[name]):g} in some row and has no logarithm "
                "there",
            )
    violations.check()
    if how.log_responses:
        chosen = set(logarithms)
    else:
        chosen = {
            name for name, values in responses.items() if spans_decades(values[np.isfinite(values)])
        }
    return {name: Transform.LOG10 if name in chosen else Transform.IDENTITY for name in responses}


def _better_transforms(
    features: Floats,
    responses: Mapping[str, Floats],
    transforms: dict[str, Transform],
    seed: int,
    notes: list[str],
) -> dict[str, Transform]:
    """Takes back the logarithms with which left-out rows are predicted worse than without."""
    better = dict(transforms)
    for name, values in responses.items():
        present = np.isfinite(values)
        if transforms[name] is Transform.LOG10 and not logarithm_is_better(
            features[present], values[present], seed
        ):
            better[name] = Transform.IDENTITY
            notes.append(
                f"`{name}` spans decades, but cross-validation predicts it better without logarithm"
            )
    return better


def _outliers(
    responses: dict[str, Floats], transforms: dict[str, Transform], distance: float
) -> dict[str, NDArray[np.bool_]]:
    """Rows further than `distance` robust deviations from the median, by response.

    The deviation is 1.4826 times the median absolute deviation, which half of the rows cannot
    move; where more than half of the rows are equal there is none, and nothing stands out.
    """
    flags = {}
    for name, values in responses.items():
        modelled = forward(transforms[name], values)
        off = np.abs(modelled - np.nanmedian(modelled))
        spread = float(np.nanmedian(off))
        flags[name] = np.asarray(off > distance * max(_MAD_TO_SD * spread, 1e-300))
        if spread == 0:
            flags[name] = np.zeros(len(values), np.bool_)
    return flags


def _split(points: Sequence[Point], held_out: int, seed: int) -> NDArray[np.bool_]:
    """Which rows are for training; rows of one point go together."""
    groups: dict[str, list[int]] = {}
    for index, point in enumerate(points):
        groups.setdefault(json.dumps(point, sort_keys=True), []).append(index)
    members = list(groups.values())
    training = np.ones(len(points), np.bool_)
    held = 0
    for group in np.random.default_rng(seed).permutation(len(members)):
        if held + len(members[group]) <= held_out:
            training[members[group]] = False
            held += len(members[group])
    return training
