"""Constrained Bayesian optimisation by asking and telling.

One Gaussian process for the objective and one for each simulated constraint; a
suggestion maximises log expected improvement plus the log probability of feasibility.
Everything is a pure function of the seed and of the evaluations taken in, so a search that is
replayed from recorded evaluations continues exactly as it would have.

    symbol     shape   unit          meaning
    x          (d,)    1             a place in the unit cube; distances are the largest difference
                                     of a coordinate
    f          (n,)    objective's   objective of each observation, to be minimised
    w                                monotone warping of f; w' is its slope at the best point
    c_j        (n,)    1             signed violation of constraint j on its scale; <= 0 is met
    mu, sd     (m, n)  1             predictions of w(f), of the c_j and of failure (1, or -1)
    best               1             w(f) of the best feasible observation
    EI(x)              1             E[max(best - w(f(x)), 0)] = sd (phi(z) + z Phi(z)),
                                     z = (best - mu) / sd
    merit(x)           1             log EI(x) + sum_j log Phi(-mu_j / sd_j)
    gain               objective's   exp(merit) / w', the improvement expected of the next run

Sources: Jones, Schonlau and Welch 1998 (expected improvement); Gardner et al. 2014
(constraints); Eriksson and Poloczek 2021 (bilog, local candidates); Ginsbourger et al. 2010
(kriging believer); Ament et al. 2023 (logarithms).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.decks.space import Point
from vistaflow_services.search.acquisition import Acquisition
from vistaflow_services.search.climbing import CAUTION, Climber
from vistaflow_services.search.cube import PointKey, SearchCube, point_key
from vistaflow_services.search.misses import MissScale
from vistaflow_services.search.observation import Observation, best_observation
from vistaflow_services.search.posterior import Posterior
from vistaflow_services.search.surfaces import CubeSurfaces, Learner
from vistaflow_services.search.warping import Warping, constraint_scale

Array = NDArray[np.float64]

MAX_MODEL_POINTS = 400
"""Most points a surface is fitted on: the best half's surroundings and a spread of the rest."""

GLOBAL_CANDIDATES = 1024
LOCAL_CANDIDATES = 512
REFINED_STARTS = 4
LOTTERY = 1
"""Of the refined starts, how many are drawn from the best 200 instead of taken from the top."""

ELSEWHERE_RADIUS = 0.35
"""Half the side of the box about the best point that counts as its surroundings."""

MIN_STALL = 8
"""Evaluations without improvement, or as many as parameters, that tell a stall."""

STALL = 1e-2
"""Part of the distance from the usual to the best objective that counts as an improvement."""

LAST_REFINEMENTS = 4
"""Evaluations left from which only refinement is asked for."""

TOO_CLOSE = 1e-6
"""Largest coordinate difference at which a point says no more than one already evaluated."""

TOO_CLOSE_IN_BATCH = 1e-3
"""The same for points asked for together, of which none can learn from the other."""


class Role(StrEnum):
    """What a suggestion is for. Alternating keeps one wrong model from ruling the search."""

    IMPROVE = "improve"
    """The most expected improvement."""

    REFINE = "refine"
    """The best prediction, constraints kept at a little distance: converges quickly."""

    ELSEWHERE = "elsewhere"
    """The most expected improvement over the best point outside the surroundings of the best:
    once a basin is exhausted, the next is searched as if it were the only one."""


@dataclass(frozen=True, kw_only=True)
class _Data:
    """The n observations that have values, as arrays."""

    inputs: Array
    """Places in the unit cube (n, d)."""

    objective: Array
    """To be minimised, in its own unit (n,)."""

    feasible: NDArray[np.bool_]
    """Whether every constraint is met (n,)."""

    missed: Array
    """By how much constraints are missed (n, 2), as `MissScale.total` has it; 0 where feasible."""

    sides: list[tuple[Array, Array]]
    """Left and right side, each (n,), of each simulated constraint, in its own unit."""

    def order(self) -> NDArray[np.intp]:
        """Rows, the best first: by what they miss, which is 0 where feasible, then by objective."""
        return np.lexsort((self.objective, self.missed[:, 1], self.missed[:, 0]))


@dataclass(frozen=True, kw_only=True)
class _Models:
    """What a round of suggestions is made with."""

    surfaces: CubeSurfaces
    """The objective on its best scale, then the constraints."""

    constraints: tuple[int, ...]
    """Rows of the constraints among the surfaces."""

    incumbent: Array
    """Where the best point lies (d,)."""

    best: float | None
    """Its warped objective, or None when nothing feasible is known."""

    unwarped: float
    """What one unit of the warped objective is worth at the best point, in the objective's unit."""

    best_row: int
    """The place of the best point among all observations."""

    second: Array
    """Where the best point outside the surroundings of the incumbent lies (d,)."""

    second_best: float | None
    """Its warped objective, or None when nothing feasible is known out there."""

    def believing(self, where: Array) -> _Models:
        """The same as if the predictions at `where` (d,) had come true."""
        return replace(self, surfaces=self.surfaces.believing(where[None, :]))


@dataclass
class BayesianSearch:
    """A minimiser that takes in evaluations and proposes the next points."""

    cube: SearchCube
    """Where to search."""

    constraint_count: int
    """How many simulated constraints each observation has."""

    seed: int
    """Fixes every random choice."""

    noisy: bool = False
    """Whether a point is ranked by its predicted value instead of its single result."""

    observations: list[Observation] = field(default_factory=list)
    """All evaluations taken in, in order."""

    def __post_init__(self) -> None:
        self._climber = Climber(self.cube)
        self._grid = self.cube.grid(GLOBAL_CANDIDATES)
        self._inputs: list[Array] = []
        self._seen: set[PointKey] = set()
        self._proposal_count = 0
        self.expected_gain: float | None = None
        self._objective = Learner(self.cube, self.seed)
        self._constraints = [
            Learner(self.cube, self.seed + 1 + j) for j in range(self.constraint_count)
        ]
        self._failure = Learner(self.cube, self.seed + 1 + self.constraint_count)

    def tell(self, observations: Sequence[Observation]) -> None:
        """Takes in evaluated points, failed ones too."""
        encoded = self.cube.space.encode([observation.point for observation in observations])
        for observation, inputs in zip(observations, encoded, strict=True):
            self.observations.append(observation)
            self._inputs.append(np.asarray(inputs, dtype=np.float64))
            self._seen.add(point_key(observation.point))

    @property
    def best(self) -> Observation | None:
        """The best feasible observation, or the one that misses least when there is none."""
        return best_observation(self.observations)

    @property
    def expected_best(self) -> Observation | None:
        """The observation of the best expected objective whose constraints are expected to be met.

        What is expected of a point is the mean of the surfaces there, which all points inform: the
        luckiest reading of a noisy simulator is not the best point.
        """
        ok = [row for row, observation in enumerate(self.observations) if observation.ok]
        if len(ok) < 2:
            return self.best
        return self.observations[self._fit(ok).best_row]

    def ask(self, count: int, *, remaining: int | None = None) -> list[Point]:
        """The next points to evaluate, at most `count`, none of them evaluated before.

        `remaining` is how many evaluations are left, these included: near the end the search
        turns from exploring to refining. Fewer points, down to none, come back only when the
        space has no more.
        """
        rng = np.random.default_rng([self.seed, len(self.observations), self._proposal_count])
        ok = [row for row, observation in enumerate(self.observations) if observation.ok]
        proposals: list[Point] = []
        batch: list[Array] = []
        taken = set(self._seen)
        if len(ok) < 2:
            return self._explore(count, rng, taken)
        models = self._fit(ok)
        for slot in range(count):
            turn = self._proposal_count + slot
            role = self._role(models, turn, remaining)
            proposal = self._propose(models, role, rng, taken, batch)
            if proposal is None:
                break
            point, where = proposal
            batch.append(where)
            proposals.append(point)
            taken.add(point_key(point))
            if slot + 1 < count:
                models = models.believing(where)
        self._proposal_count += len(proposals)
        return proposals

    def _role(self, models: _Models, turn: int, remaining: int | None) -> Role:
        if models.best is None:
            return Role.IMPROVE
        if remaining is not None and remaining <= LAST_REFINEMENTS:
            return Role.REFINE
        if turn % 6 == 2:
            return Role.REFINE
        return Role.ELSEWHERE if turn % 6 != 5 and self._has_stalled() else Role.IMPROVE

    def _has_stalled(self) -> bool:
        """Whether the last evaluations hardly improved the best: its basin is exhausted."""
        recent = max(MIN_STALL, self.cube.dimension)
        before = best_observation(self.observations[:-recent])
        now = self.best
        if before is None or now is None or not before.feasible:
            return False
        usual = float(
            np.median(
                [observation.objective for observation in self.observations if observation.ok]
            )
        )
        return before.objective - now.objective < STALL * abs(usual - now.objective)

    def _spread(self, count: int, rng: np.random.Generator) -> Array:
        """Allowed inputs all over the cube: every point of it where it has few."""
        if self._grid is not None:
            return self._grid[rng.permutation(len(self._grid))]
        return self.cube.sample(lambda n: latin(n, self.cube.dimension, rng), count)

    def _explore(self, count: int, rng: np.random.Generator, taken: set[PointKey]) -> list[Point]:
        """Space-filling points, for want of two usable observations."""
        proposals: list[Point] = []
        points, _ = self.cube.canonical(self._spread(64 * count, rng))
        for point, allowed in zip(points, self.cube.allows(points), strict=True):
            if allowed and point_key(point) not in taken and len(proposals) < count:
                taken.add(point_key(point))
                proposals.append(point)
        self._proposal_count += len(proposals)
        return proposals

    def _fit(self, ok: list[int]) -> _Models:
        """The models of the observations that have values; `ok` are their rows among all."""
        data = self._data(ok)
        order = data.order()
        surfaces, warping = self._surfaces(data, data.inputs[order[0]])
        constraints = tuple(range(1, surfaces.count))
        scaled, feasible = warping.apply(data.objective), data.feasible
        if self.noisy:
            # Of noisy runs the lowest reading is luck: points are ranked by what is expected there.
            scaled, missed = _expected(surfaces, constraints, data.inputs)
            feasible = missed <= 0.0
            order = np.lexsort((scaled, missed))
        best = order[0]
        incumbent = data.inputs[best]
        outside = _is_far(data.inputs, incumbent)
        second = next((row for row in order if outside[row]), best)
        return _Models(
            surfaces=surfaces,
            constraints=constraints,
            incumbent=incumbent,
            best=float(scaled[best]) if feasible[best] else None,
            unwarped=warping.unit_at(float(data.objective[best])),
            best_row=ok[best],
            second=data.inputs[second],
            second_best=float(scaled[second]) if feasible[second] else None,
        )

    def _data(self, ok: list[int]) -> _Data:
        """The observations of these rows as arrays."""
        observations = [self.observations[row] for row in ok]
        scale = MissScale.over([observation.excesses for observation in observations])
        feasible = np.array([observation.feasible for observation in observations])
        missed = np.array([scale.total(observation.excesses) for observation in observations])
        missed[feasible] = 0.0
        sides = [
            (
                np.array([observation.sides[j][0] for observation in observations]),
                np.array([observation.sides[j][1] for observation in observations]),
            )
            for j in range(self.constraint_count)
        ]
        return _Data(
            inputs=np.array([self._inputs[row] for row in ok]),
            objective=np.array([observation.objective for observation in observations]),
            feasible=feasible,
            missed=missed,
            sides=sides,
        )

    def _surfaces(self, data: _Data, incumbent: Array) -> tuple[CubeSurfaces, Warping]:
        """Processes of the objective, of each constraint that varies, and of failure.

        They are fitted on at most `MAX_MODEL_POINTS` rows about `incumbent` (d,). A constraint that
        has one value everywhere tells nothing and has no process. Failure, where any run failed, is
        one more constraint: 1 where a run failed, -1 where it did not, so that 0 or less is met.
        """
        chosen = model_rows(data.inputs, incumbent)
        features = self.cube.features(data.inputs[chosen])
        objective, warping = self._objective.fit_warped(features, data.objective[chosen])
        quantities = [objective]
        for learner, (left, right) in zip(self._constraints, data.sides, strict=True):
            excess = constraint_scale(left, right)
            if np.ptp(excess) > 0:
                quantities.append(learner.fit(features, excess[chosen]))
        posteriors = [Posterior(features, quantities)]
        if len(data.inputs) < len(self.observations):
            # Failed runs have no values: their process has rows of its own.
            everything = np.array(self._inputs)
            near = model_rows(everything, incumbent)
            failed = np.array([-1.0 if self.observations[row].ok else 1.0 for row in near])
            features = self.cube.features(everything[near])
            posteriors.append(Posterior(features, [self._failure.fit(features, failed)]))
        return CubeSurfaces(self.cube, posteriors), warping

    def _propose(
        self,
        models: _Models,
        role: Role,
        rng: np.random.Generator,
        taken: set[PointKey],
        batch: Sequence[Array],
    ) -> tuple[Point, Array] | None:
        """One new point for `role`, and where it lies; None when the space has no more."""
        acquisition = Acquisition(
            surfaces=models.surfaces,
            objective=0,
            constraints=models.constraints,
            best=models.second_best if role is Role.ELSEWHERE else models.best,
        )
        centre = models.second if role is Role.ELSEWHERE else models.incumbent
        spread = self._spread(GLOBAL_CANDIDATES, rng)
        near = self.cube.sample(lambda n: around(centre, n, rng), LOCAL_CANDIDATES)
        candidates = np.vstack([spread, near])
        if not len(candidates):
            return None
        merits = acquisition.values(candidates)
        if role is Role.ELSEWHERE:
            merits = np.where(_is_far(candidates, models.incumbent), merits, -np.inf)
        order = np.argsort(-merits, kind="stable")
        lottery = rng.permutation(order[:200])[:LOTTERY]
        chosen = [*order[: REFINED_STARTS - len(lottery)], *lottery]
        # Refinement starts from the best point known; one more start guards against a false one.
        starts = candidates[chosen[:1] if role is Role.REFINE else chosen]
        refined = [self._climber.refine(acquisition, start) for start in starts]
        if role is Role.ELSEWHERE:
            refined = [
                ranked_start
                for ranked_start in refined
                if _is_far(ranked_start[1][None], models.incumbent)[0]
            ]
        if role is Role.IMPROVE and models.best is not None:
            top = max(merit for merit, _ in refined)
            self.expected_gain = float(np.exp(min(top, 700.0))) * models.unwarped
        ranked = [where for _, where in sorted(refined, key=lambda ranked_start: -ranked_start[0])]
        if role is Role.REFINE:
            descents = [
                self._climber.descend(models.surfaces, models.constraints, start)
                for start in (models.incumbent, *ranked[:1])
            ]
            ranked[:0] = [
                where for _, where in sorted(descents, key=lambda ranked_start: ranked_start[0])
            ]
        return self._first_new(np.vstack([*ranked, candidates[order]]), taken, batch)

    def _first_new(
        self, inputs: Array, taken: set[PointKey], batch: Sequence[Array]
    ) -> tuple[Point, Array] | None:
        """The first allowed point not too close to evaluated or proposed ones; else one not taken.

        Discrete points that differ are never too close, as a level is further than that.
        """
        evaluated = np.array(self._inputs)
        batch_inputs = np.array(batch).reshape(-1, self.cube.dimension)
        for evaluated_gap, batch_gap in ((TOO_CLOSE, TOO_CLOSE_IN_BATCH), (0.0, 0.0)):
            for start in range(0, len(inputs), 64):
                points, where = self.cube.canonical(inputs[start : start + 64])
                allowed = self.cube.allows(points)
                for point, place, good in zip(points, where, allowed, strict=True):
                    if (
                        good
                        and point_key(point) not in taken
                        and _gap(evaluated, place) > evaluated_gap
                        and _gap(batch_inputs, place) > batch_gap
                    ):
                        return point, place
        return None


def _expected(
    surfaces: CubeSurfaces, constraints: tuple[int, ...], inputs: Array
) -> tuple[Array, Array]:
    """Expected objective (n,), and by how much all constraints are expected to be missed (n,).

    A constraint counts as met where it is so at a little distance, as in `Climber.descend`.
    """
    means, sds = surfaces.predict(inputs)
    rows = list(constraints)
    excess = np.maximum(means[rows] + CAUTION * sds[rows], 0.0)
    return means[0], np.asarray(excess.sum(axis=0), dtype=np.float64)


def _gap(places: Array, place: Array) -> float:
    """The largest coordinate difference to the nearest of some places."""
    return float(np.abs(places - place).max(axis=1).min()) if len(places) else np.inf


def model_rows(inputs: Array, centre: Array) -> NDArray[np.int64]:
    """Rows of inputs (n, d) to fit on: all, or the nearest to `centre` and some of the rest."""
    if len(inputs) <= MAX_MODEL_POINTS:
        return np.arange(len(inputs))
    order = np.argsort(np.abs(inputs - centre).max(axis=1), kind="stable")
    near, far = order[: MAX_MODEL_POINTS // 2], np.sort(order[MAX_MODEL_POINTS // 2 :])
    spread = far[np.linspace(0, len(far) - 1, MAX_MODEL_POINTS // 2).astype(np.int64)]
    return np.sort(np.concatenate([near, spread]))


def latin(count: int, dimension: int, rng: np.random.Generator) -> Array:
    """A Latin hypercube (count, dimension)."""
    order = rng.permuted(np.tile(np.arange(count), (dimension, 1)), axis=1).T
    return np.asarray((order + rng.random((count, dimension))) / count, dtype=np.float64)


def around(centre: Array, count: int, rng: np.random.Generator) -> Array:
    """Inputs (count, d) at distances from 0.0003 to 0.3 of `centre`, few coordinates changed."""
    dimension = len(centre)
    width = 10.0 ** rng.uniform(-3.5, -0.5, (count, 1))
    moved = rng.random((count, dimension)) < max(0.3, 2.0 / dimension)
    step = rng.normal(0.0, 1.0, (count, dimension)) * width * moved
    return np.asarray(np.clip(centre + step, 0.0, 1.0), dtype=np.float64)


def _is_far(inputs: Array, centre: Array) -> NDArray[np.bool_]:
    return np.asarray(np.abs(inputs - centre).max(axis=1) > ELSEWHERE_RADIUS)
