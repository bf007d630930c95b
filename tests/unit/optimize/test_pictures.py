"""Every picture of the table, of kits of every shape, in every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, cast

import numpy as np
import pytest

from vistaflow_services.core.errors import ConflictError, InvalidError
from vistaflow_services.decks.expressions import parse_goals
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.optimize.pictures import style
from vistaflow_services.optimize.pictures.catalog import PICTURES, check, drawn
from vistaflow_services.optimize.pictures.relations import total_effects
from vistaflow_services.optimize.pictures.subject import Stage, Subject
from vistaflow_services.surrogates.model import Model
from vistaflow_services.surrogates.transforms import Prediction

START = datetime(2026, 1, 31, 9, 30)
NAME = "threshold_voltage_shift_of_the_access_transistor"
SIGNATURES = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}


def responses_at(places: Any, names: Sequence[str]) -> dict[str, Any]:
    """Responses that span two decades along the first parameter."""
    return {
        name: 10.0 ** (2 * places[:, 0]) + number + places[:, -1]
        for number, name in enumerate(names)
    }


class Formula:
    """A model that knows the responses, so that none is trained here."""

    def __init__(self, space: Space, names: Sequence[str]) -> None:
        self.space, self.response_names = space, list(names)

    def predict_features(self, features: Any) -> dict[str, Prediction]:
        means = responses_at(features, self.response_names)
        return {
            name: Prediction(
                mean=mean, sd=0.1 * mean, median=mean, low95=0.8 * mean, high95=1.2 * mean
            )
            for name, mean in means.items()
        }


def subject(
    count: int, *, responses: int = 2, long_names: bool = False, choices: bool = False
) -> Subject:
    """A kit with a model of so many parameters, the first of which matters most."""
    parameters = [
        Parameter(
            name=f"{NAME}_{number}" if long_names else f"p{number}", low=1, high=10, unit="um"
        )
        for number in range(count)
    ]
    parameters[0] = replace(parameters[0], scale=Scale.LOG)
    if choices:
        materials = ("silicon_dioxide", "hafnium_oxide", "alumina")
        parameters[1] = Parameter(name="material", kind=Kind.CATEGORICAL, choices=materials)
    space = Space(parameters=tuple(parameters))
    names = [f"{NAME}_response_{n}" if long_names else f"y{n}" for n in range(responses)]
    points = space.points(space.decode_columns(np.random.default_rng(1).random((40, count))))
    places = space.encode(points)
    values = responses_at(places, names)
    goals = parse_goals(
        f"minimize {names[0]}; {names[-1]} >= 20",
        responses=names,
        parameters=space.numeric_names,
    )
    failed = np.arange(40) % 10 == 3
    units = dict.fromkeys(names, "dB")
    model = cast(Model, Formula(space, names))
    feasible = (values[names[-1]] >= 20) & ~failed
    return Subject(
        kit_id=7,
        name="a kit",
        date="2026-01-31",
        stages=[
            Stage(
                name="design", status="FINISHED", started=START, ended=START + timedelta(hours=3)
            ),
            Stage(name="train", status="FAILED", started=START + timedelta(hours=3)),
            Stage(name="optimize", status="INIT"),
        ],
        space=space,
        units=units,
        points=points,
        responses={name: np.where(failed, np.nan, column) for name, column in values.items()},
        feasible=feasible,
        failed=failed,
        goals=goals,
        best=points[int(np.argmax(feasible))],
        model=model,
    )


@pytest.fixture(scope="module")
def subjects() -> dict[str, Subject]:
    two, mixed = subject(2, responses=1), subject(3, choices=True)
    return {
        "two parameters, one response": two,
        "choices": mixed,
        "twelve parameters, long names": subject(12, responses=3, long_names=True),
        "all failed": replace(
            mixed,
            responses={name: np.full(40, np.nan) for name in mixed.units},
            failed=np.ones(40, np.bool_),
            feasible=np.zeros(40, np.bool_),
            best=None,
        ),
        "no goals": replace(two, goals=None, best=None, feasible=~two.failed),
    }


@pytest.mark.parametrize("picture", PICTURES)
def test_every_picture_is_drawn_of_every_kit(picture: str, subjects: dict[str, Subject]) -> None:
    for name, one in subjects.items():
        content = drawn(one, picture, "png", [], "")
        assert content.startswith(SIGNATURES["png"]), name


@pytest.mark.parametrize("file_format", ["svg", "pdf"])
def test_a_picture_is_a_file_of_the_format_that_is_asked_for(
    file_format: str, subjects: dict[str, Subject]
) -> None:
    content = drawn(subjects["choices"], "effects", file_format, [], "")
    assert content.startswith(SIGNATURES[file_format])


def texts(figure: Any) -> list[str]:
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text)]


def draw(one: Subject, picture: str, chosen: Sequence[str] = (), response: str = "") -> Any:
    return PICTURES[picture].draw(one, chosen, response)


@pytest.mark.parametrize("picture", PICTURES)
def test_the_kit_and_its_date_are_in_the_corner(picture: str, subjects: dict[str, Subject]) -> None:
    assert "kit 7 · 2026-01-31" in texts(draw(subjects["choices"], picture))


def test_points_are_marked_and_limits_drawn(subjects: dict[str, Subject]) -> None:
    figure = draw(subjects["two parameters, one response"], "effects")
    labels = {text for legend in figure.legends for text in texts(legend)}
    assert {"feasible", "misses a constraint", "failed", "best"} <= labels
    axes = figure.axes[0]
    limits = [line for line in axes.lines if line.get_color() == style.LIMIT]
    assert [line.get_ydata()[0] for line in limits] == [20.0]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert sum(len(line.get_xdata()) for line in crosses) == 4


def test_of_many_parameters_those_that_matter_are_shown_or_those_that_are_named(
    subjects: dict[str, Subject],
) -> None:
    one = subjects["twelve parameters, long names"]
    names = [parameter.name for parameter in one.free]
    for effects in total_effects(one).values():
        assert np.argmax(effects) == 0
        assert effects[0] == pytest.approx(1.0, abs=0.25)

    figure = draw(one, "effects")
    assert len({axes.get_subplotspec().colspan.start for axes in figure.axes}) == 6
    assert any("6 of 12 parameters" in text for text in texts(figure))
    figure = draw(one, "slices", [names[5]], one.drawn_responses[0])
    assert len(figure.axes) == 1
    with pytest.raises(InvalidError, match="is no parameter that varies"):
        draw(one, "slices", ["width"])
    with pytest.raises(InvalidError, match="no model of"):
        draw(one, "slices", [], "width")


def test_what_is_not_there_yet_is_said(subjects: dict[str, Subject]) -> None:
    bare = Subject(kit_id=7, name="a kit", date="2026-01-31", stages=[])
    for picture in PICTURES:
        if picture == "timeline":
            assert drawn(bare, picture, "png", [], "").startswith(SIGNATURES["png"])
            continue
        with pytest.raises(ConflictError, match=r"kit 7 has no (model|points) yet"):
            drawn(bare, picture, "png", [], "")
    with pytest.raises(InvalidError) as refused:
        check("effect", "gif", ["x"] * 101)
    assert [violation.field for violation in refused.value.violations] == [
        "picture", "format", "parameters",
    ]  # fmt: skip
