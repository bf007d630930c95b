"""From the rows of a design to rows fit to learn from: cleaning, outliers, the split."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.core.errors import InvalidError, Violations
from vistaflow_services.core.expressions import suggest
from vistaflow_services.decks.definition import NO_RESPONSE
from vistaflow_services.decks.space import Point, Space
from vistaflow_services.surrogates.dataset import Dataset, DesignRows, dataset_of
from vistaflow_services.surrogates.extremes import huge_limit, huge_note
from vistaflow_services.surrogates.logarithms import logarithm_is_better
from vistaflow_services.surrogates.surrogate import Floats
from vistaflow_services.surrogates.transforms import Transform, forward, spans_decades

MAX_TEST_FRACTION = 0.9
MIN_TRAINING_ROWS = 8
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
        found = Violations()
        if not 0.0 <= self.test_fraction <= MAX_TEST_FRACTION:
            found.add("test_fraction", f"{self.test_fraction} is not from 0 to {MAX_TEST_FRACTION}")
        if not self.outlier_distance > 0:
            found.add("outlier_distance", f"{self.outlier_distance} is not above 0")
        for name in ("responses", "log_responses"):
            named: set[str] = set()
            for at, each in enumerate(getattr(self, name)):
                if each in named:
                    found.add(f"{name}[{at}]", f"`{each}` is named twice")
                named.add(each)
        found.check()


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
    space, exact duplicates and, when asked, outliers; rows in which a response is too large to be
    one (`huge_limit`) are dropped as the failed runs they are. A row that lacks some responses
    stays for the others. Runs of one point with different outcomes are kept and stay on one side of
    the split, so that no test row is also trained on. A response that is the same in all rows, or
    in all that are trained on, is left out and noted.

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
    kept, points, responses = _usable(rows, space, names, dropped, notes)
    constant = _constant(points, space)
    varied = space.dimension - len(constant)
    whole = cells is not None and _distinct(points) >= cells
    if not whole:
        _check_count(len(kept), varied, how, dropped, len(rows.row_ids), cells, notes)
    # Of a whole space at most a quarter is held out, so some of each response is for training.
    needed = len(kept) // 2 if whole else rows_needed(varied, how.test_fraction)
    _check_responses(responses, needed, notes)
    constants = _drop_constants(responses, np.ones(len(kept), np.bool_), notes)
    transforms = _transforms(responses, how)
    strange = _outliers(responses, transforms, how.outlier_distance)
    outliers = {name: rows.row_ids[kept[each]][:100].tolist() for name, each in strange.items()}
    if how.drop_outliers:
        out = np.sum([np.zeros(len(kept)), *strange.values()], axis=0) > 0
        dropped["outlier"] = int(np.count_nonzero(out))
        points = [point for point, drop in zip(points, out, strict=True) if not drop]
        kept = kept[~out]
        responses = {name: values[~out] for name, values in responses.items()}
        if not whole:
            _check_count(len(kept), varied, how, dropped, len(rows.row_ids), cells, notes)
        transforms = _transforms(responses, how)
    wanted = _test_count(len(points), how.test_fraction)
    training = _split(points, min(wanted, len(points) // 4) if whole else wanted, how.seed)
    constants |= _drop_constants(responses, training, notes)
    if not how.log_responses:
        features = np.asarray(space.features_columns(space.columns(points))[0], np.float64)
        transforms = _better_transforms(
            features[training],
            {name: values[training] for name, values in responses.items()},
            transforms,
            how.seed,
            notes,
        )
    dataset = dataset_of(
        space,
        points,
        responses,
        row_ids=rows.row_ids[kept],
        training=training,
        transforms={name: transforms[name] for name in responses},
        units=units or {},
    )
    return dataset, PreparationReport(
        dropped={reason: count for reason, count in dropped.items() if count},
        outliers={name: each for name, each in outliers.items() if each},
        constant_parameters=constant,
        constants=constants,
        whole=whole,
        notes=notes,
    )


def _responses(rows: DesignRows, how: Preparation) -> list[str]:
    found = Violations()
    known = list(rows.responses)
    for at, each in enumerate(how.responses):
        if each not in known:
            found.add(f"responses[{at}]", f"the design has no `{each}`{suggest(each, known)}")
    names = list(how.responses) or known
    for at, each in enumerate(_logarithms(how, names)):
        if each not in names:
            found.add(f"log_responses[{at}]", f"`{each}` is not modelled{suggest(each, names)}")
    if not known:
        found.add("design", "it has no responses; run it first (EvaluateDesign)")
    found.check()
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
) -> tuple[NDArray[np.int64], list[Point], dict[str, Floats]]:
    """Rows that something can be learnt from, each once.

    Returns:
        Their places, their canonical points, and by name their responses, nan where missing.
    """
    values = np.column_stack([rows.responses[name] for name in names])
    present = np.isfinite(values)
    ran = present & np.array([failure is None for failure in rows.failures])[:, None]
    huge = ran & (np.abs(values) > [huge_limit(values[ran[:, j], j]) for j in range(len(names))])
    for j, name in enumerate(names):
        strange = [
            (int(rows.row_ids[at]), float(values[at, j])) for at in np.flatnonzero(huge[:, j])
        ]
        if strange:
            notes.append(huge_note(name, strange, values[ran[:, j] & ~huge[:, j], j]))
    values = np.where(present, values, np.nan)
    kept: list[int] = []
    points: list[Point] = []
    seen: set[tuple[str, bytes]] = set()
    for at, point in enumerate(rows.points):
        if rows.failures[at]:
            dropped["failed"] += 1
            continue
        if not present[at].any() or any(point[name] is None for name in space.names):
            dropped["missing"] += 1
            continue
        if huge[at].any():
            dropped["huge"] += 1
            continue
        try:
            canonical = space.check(point)
        except InvalidError:
            dropped["outside_space"] += 1
            continue
        key = json.dumps(canonical, sort_keys=True), values[at].tobytes()
        if key in seen:
            dropped["duplicate"] += 1
            continue
        seen.add(key)
        kept.append(at)
        points.append(canonical)
    responses = {name: values[kept, j] for j, name in enumerate(names)}
    return np.asarray(kept, np.int64), points, responses


def _constant(points: Sequence[Point], space: Space) -> list[str]:
    """Parameters that have one value in all rows."""
    if len(points) < 2:
        return []
    return [name for name in space.names if len({point[name] for point in points}) == 1]


def _distinct(points: Sequence[Point]) -> int:
    return len({json.dumps(each, sort_keys=True) for each in points})


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
    told = f" ({total} in the design; dropped: {lost})" if lost else ""
    found = Violations()
    advice = f"make the design larger, {10 * dimension} rows are a good start"
    if cells is not None and cells <= 10 * dimension:
        advice = f"run all {cells} points that the space has, with full_factorial or a larger size"
    found.add(
        "design",
        f"{count} usable rows{told} are too few: a model of {dimension} parameters with "
        + "; ".join(
            [f"{how.test_fraction:g} of the rows held out needs at least {needed}", advice, *notes]
        ),
    )
    found.check()


def _check_responses(responses: Mapping[str, Floats], needed: int, notes: list[str]) -> None:
    """Refuses responses that too few rows have, and notes those that some rows lack."""
    found = Violations()
    for name, values in responses.items():
        count = int(np.isfinite(values).sum())
        if count < needed:
            found.add(
                f"responses.{name}",
                f"{count} of {len(values)} usable rows have this response, and a model of it needs "
                f"at least {needed}; make the design larger, or leave the response out",
            )
        elif count < len(values):
            notes.append(f"{len(values) - count} of {len(values)} rows have no `{name}`")
    found.check()


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
    found = Violations()
    logarithms = _logarithms(how, list(responses))
    for at, name in enumerate(logarithms):
        if name in responses and np.nanmin(responses[name]) <= 0:
            found.add(
                f"log_responses[{at}]",
                f"`{name}` is {np.nanmin(responses[name]):g} in some row and has no logarithm "
                "there",
            )
    found.check()
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


def _split(points: Sequence[Point], wanted: int, seed: int) -> NDArray[np.bool_]:
    """Which rows are for training; rows of one point go together."""
    groups: dict[str, list[int]] = {}
    for at, point in enumerate(points):
        groups.setdefault(json.dumps(point, sort_keys=True), []).append(at)
    members = list(groups.values())
    training = np.ones(len(points), np.bool_)
    held = 0
    for group in np.random.default_rng(seed).permutation(len(members)):
        if held + len(members[group]) <= wanted:
            training[members[group]] = False
            held += len(members[group])
    return training
