"""What a study's own surrogate says of each response before the simulator is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vistaflow_services.decks.space import Point
from vistaflow_services.search.bayes import model_rows
from vistaflow_services.search.cube import SearchCube
from vistaflow_services.search.posterior import Posterior
from vistaflow_services.search.surfaces import Learner
from vistaflow_services.surrogates.transforms import Transform, backward, forward, spans_decades

Array = NDArray[np.float64]

Forecast = dict[str, tuple[float, float]]
"""Mean and standard deviation of a new run, by response, in its unit."""

LEAST_POINTS = 4
"""With fewer simulated points there is no forecast."""


class Forecaster:
    """One Gaussian process a response, learnt again as points come in."""

    def __init__(self, cube: SearchCube, responses: Sequence[str], seed: int) -> None:
        self._cube = cube
        self._learners = {
            (name, how): Learner(cube, seed)
            for name in responses
            for how in (Transform.IDENTITY, Transform.LOG10)
        }
        self._responses = list(responses)

    def forecast(
        self,
        simulated: Sequence[tuple[Point, Mapping[str, float]]],
        points: Sequence[Point],
    ) -> list[Forecast]:
        """The responses expected at `points`, from simulated points with their responses.

        Responses that span decades are modelled in their logarithm, and forecast by the moments of
        the log-normal prediction.
        """
        if len(simulated) < LEAST_POINTS or not points:
            return [{} for _ in points]
        where = self._cube.space.encode(points)
        inputs = self._cube.space.encode([point for point, _ in simulated])
        rows = model_rows(inputs, where[0])
        features = self._cube.features(inputs[rows])
        forecasts: list[Forecast] = [{} for _ in points]
        hows, quantities = [], []
        for name in self._responses:
            values = np.array([responses[name] for _, responses in simulated])[rows]
            how = Transform.LOG10 if spans_decades(values) else Transform.IDENTITY
            hows.append(how)
            quantities.append(self._learners[name, how].fit(features, forward(how, values)))
        means, sds = Posterior(features, quantities).predict(self._cube.features(where), noise=True)
        for j, name in enumerate(self._responses):
            prediction = backward(hows[j], means[j], sds[j])
            for forecast, mean, sd in zip(forecasts, prediction.mean, prediction.sd, strict=True):
                forecast[name] = (float(mean), float(sd))
        return forecasts
