import numpy as np
import pytest

from vistaflow_services.search.warping import Warp, candidate_warpings, constraint_scale


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_every_warp_keeps_the_order_of_values(sign: float) -> None:
    values = sign * np.exp(np.random.default_rng(0).normal(0.0, 3.0, 200))
    order = np.argsort(values)
    warpings = candidate_warpings(values)
    assert {each.warp for each in warpings} == set(Warp)
    for each in warpings:
        assert (np.diff(each.apply(values)[order]) >= 0).all(), each.warp


def test_a_logarithm_is_not_considered_for_values_that_change_sign() -> None:
    values = np.linspace(-1.0, 100.0, 50)
    assert Warp.LOG not in {each.warp for each in candidate_warpings(values)}


def test_constant_values_are_left_as_they_are() -> None:
    assert [each.warp for each in candidate_warpings(np.full(9, 3.0))] == [Warp.RAW]


def test_a_unit_of_the_warped_scale_is_worth_the_inverse_of_its_slope() -> None:
    values = np.exp(np.linspace(0.0, 6.0, 40))
    (log,) = (each for each in candidate_warpings(values) if each.warp is Warp.LOG)
    assert log.unit_at(20.0) == pytest.approx(20.0, rel=1e-4)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.array([1e-13, 1e-10, 1e-9, 1e-8, 1e-5]), np.full(5, 1e-9)),
        (np.array([-3.0, -1.0, 0.0, 1.0, 400.0]), np.zeros(5)),
        (np.array([0.2, 0.25, 0.3, 0.31, 0.4]), np.full(5, 0.3)),
    ],
)
def test_the_scale_of_a_constraint_keeps_the_sign_of_its_violation(
    left: np.ndarray, right: np.ndarray
) -> None:
    scaled = constraint_scale(left, right)
    np.testing.assert_array_equal(np.sign(scaled), np.sign(left - right))
    assert (np.diff(scaled) > 0).all()


def test_a_current_over_decades_is_compared_with_its_limit_by_their_ratio() -> None:
    scaled = constraint_scale(np.array([1e-12, 1e-9, 1e-6]), np.full(3, 1e-9))
    np.testing.assert_allclose(scaled, [-3 * np.log(10), 0.0, 3 * np.log(10)], atol=1e-9)
