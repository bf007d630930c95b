import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import approx_fprime
from scipy.stats import norm

from vistaflow_services.search.acquisition import Acquisition, Criterion, log_improvement
from vistaflow_services.search.posterior import Posterior, Quantity


def _surfaces(seed: int = 0) -> Posterior:
    rng = np.random.default_rng(seed)
    rows = rng.random((30, 3))
    values = [np.sin(5 * rows[:, 0]) + rows[:, 1] ** 2, rows[:, 2] - 0.5, rows[:, 0] - rows[:, 1]]
    return Posterior(
        rows,
        [Quantity(values=each, log_lengths=np.full(3, -0.5), log_noise=-12.0) for each in values],
    )


@pytest.mark.parametrize("z", [-6.0, -1.5, -1.0, -0.2, 0.0, 0.7, 3.0])
def test_log_improvement_is_the_logarithm_of_the_integral_it_stands_for(z: float) -> None:
    expected, _ = quad(lambda u: (z - u) * norm.pdf(u), z - 12.0, z, epsabs=0.0)
    assert log_improvement(np.array([z]))[0] == pytest.approx(np.log(expected), abs=1e-8)


def test_log_improvement_stays_finite_and_rising_where_the_improvement_itself_underflows() -> None:
    z = -np.logspace(6, 0, 200)
    told = log_improvement(z)
    assert np.isfinite(told).all()
    assert (np.diff(told) > 0).all()


@pytest.mark.parametrize("criterion", list(Criterion))
@pytest.mark.parametrize("best", [None, -0.3])
def test_the_slope_is_that_of_the_value(criterion: Criterion, best: float | None) -> None:
    acquisition = Acquisition(
        surfaces=_surfaces(), objective=0, constraints=(1, 2), best=best, criterion=criterion
    )
    for point in np.random.default_rng(1).random((5, 3)):
        value, slope = acquisition.value_and_slope(point)
        assert value == pytest.approx(acquisition.values(point[None])[0], abs=1e-8)
        numeric = approx_fprime(point, lambda x: acquisition.value_and_slope(x)[0], 1e-7)
        np.testing.assert_allclose(slope, numeric, rtol=1e-4, atol=1e-4)


def test_without_a_feasible_point_only_feasibility_counts() -> None:
    surfaces = _surfaces()
    inputs = np.random.default_rng(2).random((50, 3))
    acquisition = Acquisition(surfaces=surfaces, objective=0, constraints=(1,), best=None)
    mean, sd = surfaces.predict(inputs)
    np.testing.assert_allclose(acquisition.values(inputs), norm.logcdf(-mean[1] / sd[1]))
