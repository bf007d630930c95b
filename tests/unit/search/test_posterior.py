import numpy as np
import pytest

from vistaflow_services.search.posterior import Posterior, Quantity
from vistaflow_services.surrogates.families.gaussian_process import GaussianProcess


@pytest.fixture(scope="module")
def fitted() -> tuple[list[GaussianProcess], Posterior]:
    rows = np.random.default_rng(0).random((40, 4))
    values = [np.sin(5 * rows[:, 0]) + rows[:, 1] ** 2, 1e-9 * np.exp(3 * rows[:, 2]), rows[:, 3]]
    processes = [GaussianProcess(starts=1).fit(rows, each) for each in values]
    quantities = [
        Quantity(
            values=each,
            log_lengths=process.hyper_parameters[:-1],
            log_noise=float(process.hyper_parameters[-1]),
        )
        for each, process in zip(values, processes, strict=True)
    ]
    return processes, Posterior(rows, quantities)


def test_it_predicts_what_each_process_predicts_alone(
    fitted: tuple[list[GaussianProcess], Posterior],
) -> None:
    processes, posterior = fitted
    inputs = np.random.default_rng(1).random((64, 4))
    means, sds = posterior.predict(inputs)
    for j, process in enumerate(processes):
        mean, sd = process.predict(inputs)
        np.testing.assert_allclose(means[j], mean, rtol=1e-7, atol=1e-9 * np.abs(mean).max())
        np.testing.assert_allclose(sds[j], sd, rtol=1e-4, atol=1e-9 * sd.max())


def test_its_slopes_are_those_of_each_process(
    fitted: tuple[list[GaussianProcess], Posterior],
) -> None:
    processes, posterior = fitted
    point = np.array([0.31, 0.72, 0.18, 0.55])
    told = posterior.gradient(point)
    for j, process in enumerate(processes):
        for mine, theirs in zip(told, process.gradient(point), strict=True):
            scale = np.abs(theirs).max()
            np.testing.assert_allclose(mine[j], theirs, rtol=1e-4, atol=1e-5 * scale)


def test_believing_a_prediction_keeps_the_mean_there_and_takes_the_doubt_away(
    fitted: tuple[list[GaussianProcess], Posterior],
) -> None:
    _, posterior = fitted
    place = np.array([[0.9, 0.1, 0.9, 0.1]])
    mean, sd = posterior.predict(place)
    believed_mean, believed_sd = posterior.believing(place).predict(place)
    np.testing.assert_allclose(believed_mean, mean, rtol=1e-2, atol=0.1 * sd.max())
    assert (believed_sd < sd).all()
    assert believed_sd[0, 0] < 0.3 * sd[0, 0]
