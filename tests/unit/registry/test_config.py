"""Settings of the registry are refused at the start if nothing could work with them."""

from __future__ import annotations

import dataclasses
import math

import pytest

from vistaflow_services.core.config import read_config
from vistaflow_services.core.errors import InvalidError
from vistaflow_services.registry.config import RANGES, Config

NUMBERS = [each.name for each in dataclasses.fields(Config) if each.type in ("int", "float")]


def test_every_setting_that_is_a_number_has_a_range() -> None:
    assert sorted(RANGES) == sorted(NUMBERS)


@pytest.mark.parametrize("text", ["nan", "1e300", "-1", "0", "inf"])
def test_a_lease_is_of_a_time_that_clocks_can_keep(text: str) -> None:
    name = "VISTAFLOW_REGISTRY_LEASE_SECONDS"
    with pytest.raises(InvalidError, match=r"lease_seconds is|LEASE_SECONDS: .* is not a number"):
        read_config(Config, "VISTAFLOW_REGISTRY_", {name: text})


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_out_of_its_range_is_refused_under_its_name(name: str) -> None:
    least, most = RANGES[name]
    for value in (math.nan, least - 1, most * 2, math.inf):
        with pytest.raises(ValueError, match=f"{name} is "):
            Config(**{name: value})
    for value in (least, most):
        assert getattr(Config(**{name: value}), name) == value
