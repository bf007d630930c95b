from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from vistaflow_services.core.errors import InvalidError
from vistaflow_services.decks.expressions import parse_constraint
from vistaflow_services.decks.space import Kind, Parameter, Scale, Space
from vistaflow_services.designs import generators
from vistaflow_services.designs.generators import generate
from vistaflow_services.designs.quality import assess
from vistaflow_services.designs.recipe import (
    MAX_SIZE,
    Generator,
    Recipe,
    Region,
    factorial_size,
)

SIZED = [each for each in Generator if each is not Generator.FULL_FACTORIAL]

MIXED = (
    Parameter(name="tox", low=1e-9, high=1e-8, scale=Scale.LOG, unit="m"),
    Parameter(name="vdd", low=-1.0, high=2.0, default=1.5),
    Parameter(name="fingers", kind=Kind.INTEGER, low=1, high=8),
    Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", "metal")),
    Parameter(name="width", kind=Kind.ORDINAL, choices=(1, 2, 5)),
)


def space(*constraints: str, parameters: tuple[Parameter, ...] = MIXED) -> Space:
    names = [each.name for each in parameters if each.is_numeric]
    return Space(
        parameters=parameters,
        constraints=tuple(parse_constraint(each, names) for each in constraints),
    )


def cube(dimension: int, *constraints: str) -> Region:
    parameters = tuple(Parameter(name=f"x{at}", low=0.0, high=1.0) for at in range(dimension))
    return Region(space=space(*constraints, parameters=parameters))


def recipe(generator: Generator, **changes: object) -> Recipe:
    size = 0 if generator is Generator.FULL_FACTORIAL else 40
    return Recipe(**{"generator": generator, "size": size, "seed": 7, **changes})  # type: ignore[arg-type]


def mistakes(caught: pytest.ExceptionInfo[InvalidError]) -> dict[str, str]:
    return {each.field: each.description for each in caught.value.violations}


@pytest.mark.parametrize("generator", list(Generator))
@pytest.mark.parametrize("constraints", [(), ("vdd * fingers <= 6",)], ids=["free", "constrained"])
def test_the_same_seed_gives_the_same_design_bit_for_bit(
    generator: Generator, constraints: tuple[str, ...]
) -> None:
    region = Region(space=space(*constraints))
    one, other = generate(recipe(generator), region), generate(recipe(generator), region)
    for name in region.space.names:
        assert_array_equal(one.columns[name], other.columns[name])
    assert one.version == other.version == generators.VERSIONS[generator]


@pytest.mark.parametrize("generator", SIZED)
def test_another_seed_gives_another_design(generator: Generator) -> None:
    region = Region(space=space())
    one, other = (generate(recipe(generator, seed=seed), region) for seed in (1, 2))
    assert one.points() != other.points()


@pytest.mark.parametrize("generator", SIZED)
@pytest.mark.parametrize("size", [1, 2, 3, 40, 100])
def test_a_design_has_the_size_asked_for_and_lies_in_the_space(
    generator: Generator, size: int
) -> None:
    region = Region(space=space())
    design = generate(recipe(generator, size=size), region)
    points = design.points()
    assert len(points) == len(design) == size
    assert [region.space.check(point) for point in points] == points


@pytest.mark.parametrize("generator", list(Generator))
def test_every_point_of_a_constrained_design_meets_the_constraints(generator: Generator) -> None:
    region = Region(space=space("vdd * fingers <= 3", "tox <= 8e-9", "width + vdd >= 0.5"))
    design = generate(recipe(generator), region)
    assert region.space.feasible(design.points()).all()
    if generator in SIZED:
        assert len(design) == 40
    else:
        assert design.candidate_count == 3 * 3 * 3 * 2 * 3
        assert len(design) == design.candidate_count - design.dropped_count
        assert design.dropped_count > 0


def test_a_factorial_has_every_combination_of_its_levels_once() -> None:
    region = Region(space=space())
    design = generate(recipe(Generator.FULL_FACTORIAL, parameter_levels={"vdd": 4}), region)
    points = design.points()
    assert len({tuple(point.values()) for point in points}) == len(points) == 3 * 4 * 3 * 2 * 3
    assert sorted({point["vdd"] for point in points}) == [-1.0, 0.0, 1.0, 2.0]
    assert sorted({point["fingers"] for point in points}) == [1, 5, 8]
    assert sorted({point["tox"] for point in points}) == [1e-9, 3.16227766017e-9, 1e-8]
    assert {point["gate"] for point in points} == {"poly", "metal"}
    assert {point["width"] for point in points} == {1, 2, 5}


def test_an_integer_has_no_more_levels_than_whole_numbers() -> None:
    region = Region(
        space=space(
            parameters=(
                Parameter(name="n", kind=Kind.INTEGER, low=1, high=3),
                Parameter(name="x", low=0, high=1),
            )
        )
    )
    wanted = recipe(Generator.FULL_FACTORIAL, levels=5)
    assert factorial_size(wanted, region) == 15
    assert sorted({point["n"] for point in generate(wanted, region).points()}) == [1, 2, 3]


@pytest.mark.parametrize("generator", list(Generator))
def test_a_fixed_parameter_keeps_its_value_and_the_others_fill_their_space(
    generator: Generator,
) -> None:
    region = Region(space=space("vdd * width <= 3"), fixed={"width": 5, "gate": "metal"})
    design = generate(recipe(generator), region)
    assert {(point["width"], point["gate"]) for point in design.points()} == {(5, "metal")}
    assert list(design.columns) == region.space.names
    assert design.unit().shape == (len(design), 3)


def test_the_default_point_comes_last() -> None:
    design = generate(recipe(Generator.SOBOL, include_default=True), Region(space=space()))
    assert len(design) == 41
    assert design.points()[-1] == {
        "tox": 3.16227766017e-9,
        "vdd": 1.5,
        "fingers": 5,
        "gate": "metal",
        "width": 2,
    }


def test_a_default_point_that_breaks_a_constraint_is_refused() -> None:
    with pytest.raises(InvalidError) as caught:
        generate(recipe(Generator.SOBOL, include_default=True), Region(space=space("vdd <= 1.0")))
    assert list(mistakes(caught)) == ["include_default"]


def test_every_slice_of_a_latin_hypercube_has_one_point() -> None:
    for generator in (Generator.LHS, Generator.LHS_ESE):
        unit = generate(recipe(generator, size=64), cube(6)).unit()
        slices = np.sort(np.floor(unit * 64).astype(int), axis=0)
        assert_array_equal(slices, np.tile(np.arange(64)[:, None], 6))


def test_the_levels_of_whole_numbers_and_choices_are_used_evenly() -> None:
    columns = generate(recipe(Generator.LHS_ESE, size=48), Region(space=space())).columns
    for name in ("fingers", "gate", "width"):
        counts = np.unique(columns[name], return_counts=True)[1]
        assert set(counts) == {48 // len(counts)}


def test_optimised_hypercubes_keep_mixed_points_apart() -> None:
    region = Region(space=space())
    plain, optimised = (
        assess(generate(recipe(each), region)) for each in (Generator.LHS, Generator.LHS_ESE)
    )
    assert optimised.minimum_distance is not None
    assert plain.minimum_distance is not None
    assert optimised.minimum_distance > 2 * plain.minimum_distance
    assert optimised.distinct_count == 40


def test_constrained_hypercubes_keep_their_points_apart() -> None:
    region = cube(4, "x0 + x1 + x2 + x3 <= 1.2")
    sobol, lhs, ese = (
        assess(generate(recipe(each, size=60), region))
        for each in (Generator.SOBOL, Generator.LHS, Generator.LHS_ESE)
    )
    assert sobol.phi_p is not None
    assert lhs.phi_p is not None
    assert ese.phi_p is not None
    assert ese.phi_p < lhs.phi_p < sobol.phi_p


@pytest.mark.parametrize("generator", list(Generator))
def test_impossible_constraints_are_told_with_the_hardest_one(generator: Generator) -> None:
    region = Region(space=space("vdd <= 1.9", "vdd >= 5"))
    with pytest.raises(InvalidError) as caught:
        generate(recipe(generator), region)
    assert list(mistakes(caught)) == ["constraints[1]"]
    assert "`vdd >= 5`" in mistakes(caught)["constraints[1]"]


def test_constraints_that_leave_too_little_say_how_much_was_found() -> None:
    region = cube(5, "x0 + x1 + x2 + x3 + x4 <= 0.4")
    with pytest.raises(InvalidError, match=r"only \d+ of 10\d{4} points tried"):
        generate(recipe(Generator.LHS, size=50), region)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"size": 0}, "size"),
        ({"size": MAX_SIZE + 1}, "size"),
        ({"generator": Generator.LHS_ESE, "size": 2001}, "size"),
        ({"seed": -1}, "seed"),
        ({"parameter_levels": {"vdd": 3}}, "parameter_levels"),
        ({"generator": Generator.FULL_FACTORIAL, "size": 7}, "size"),
        ({"generator": Generator.FULL_FACTORIAL, "size": 0, "levels": 1}, "levels"),
        ({"generator": Generator.FULL_FACTORIAL, "size": 0, "levels": 1000}, "levels"),
        (
            {"generator": Generator.FULL_FACTORIAL, "size": 0, "parameter_levels": {"vd": 3}},
            "parameter_levels[vd]",
        ),
        (
            {"generator": Generator.FULL_FACTORIAL, "size": 0, "parameter_levels": {"gate": 2}},
            "parameter_levels[gate]",
        ),
    ],
)
def test_a_recipe_that_cannot_be_made_names_its_field(
    changes: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidError) as caught:
        generate(recipe(**{"generator": Generator.SOBOL, **changes}), Region(space=space()))  # type: ignore[arg-type]
    assert list(mistakes(caught)) == [field]


def test_too_large_a_request_for_the_optimiser_says_what_to_use_instead() -> None:
    with pytest.raises(InvalidError, match=r"at most 2000 points.*use `sobol` or `lhs`"):
        generate(recipe(Generator.LHS_ESE, size=5000), cube(3))


def test_a_factorial_too_large_is_refused_without_making_it() -> None:
    wanted = recipe(Generator.FULL_FACTORIAL, levels=10)
    assert factorial_size(wanted, cube(50)) == 10**50
    with pytest.raises(InvalidError, match=r"the levels make 1e\+50 points"):
        generate(wanted, cube(50))


def test_every_mistake_of_a_recipe_is_told_at_once() -> None:
    with pytest.raises(InvalidError) as caught:
        generate(recipe(Generator.SOBOL, size=0, seed=-1), cube(2))
    assert list(mistakes(caught)) == ["seed", "size"]


def test_a_region_with_nothing_to_vary_is_refused() -> None:
    with pytest.raises(InvalidError, match="every parameter is fixed"):
        Region(space=cube(1).space, fixed={"x0": 0.5})


def test_sobol_of_any_size_is_a_prefix_of_the_balanced_sequence() -> None:
    long, short = (generate(recipe(Generator.SOBOL, size=n), cube(3)).unit() for n in (128, 100))
    assert_array_equal(long[:100], short)
    per_half = np.floor(long * 2).astype(int).sum(axis=0)
    assert per_half.tolist() == [64, 64, 64]


def test_many_sobol_points_are_more_even_than_random_hypercubes() -> None:
    sobol, lhs = (
        assess(generate(recipe(each, size=1000), cube(10))).centred_discrepancy
        for each in (Generator.SOBOL, Generator.LHS)
    )
    assert sobol is not None
    assert lhs is not None
    assert sobol < 0.0012 < lhs


def test_a_logarithmic_parameter_is_even_in_its_logarithm() -> None:
    design = generate(recipe(Generator.LHS, size=100), Region(space=space()))
    exponents = np.log10(design.columns["tox"])
    assert math.isclose(float(np.mean(exponents)), -8.5, abs_tol=0.01)


@pytest.mark.parametrize("generator", list(Generator))
def test_the_same_seed_gives_the_same_design_in_another_process(generator: Generator) -> None:
    program = (
        "import hashlib\n"
        "from vistaflow_services.decks.space import Parameter, Space\n"
        "from vistaflow_services.designs.recipe import Generator, Recipe, Region\n"
        "from vistaflow_services.designs.generators import generate\n"
        "space = Space(parameters=tuple(\n"
        "    Parameter(name=f'x{at}', low=0.0, high=1.0) for at in range(4)))\n"
        f"generator = Generator('{generator}')\n"
        "size = 0 if generator == 'full_factorial' else 40\n"
        "recipe = Recipe(generator=generator, size=size, seed=7)\n"
        "print(hashlib.sha256(generate(recipe, Region(space=space)).unit().tobytes()).hexdigest())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONHASHSEED": "1"}
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, env=environment, check=True
    )
    here = generate(recipe(generator), cube(4)).unit()
    assert told.stdout.decode().strip() == hashlib.sha256(here.tobytes()).hexdigest()


@pytest.mark.parametrize("generator", SIZED)
@pytest.mark.parametrize("size", [6, 7, 30])
def test_a_space_of_no_more_points_than_asked_for_is_tried_whole_and_evenly(
    generator: Generator, size: int
) -> None:
    region = Region(
        space=space(
            "width <= 2 * fingers + 1",
            parameters=(
                Parameter(name="fingers", kind=Kind.INTEGER, low=0, high=1),
                Parameter(name="gate", kind=Kind.CATEGORICAL, choices=("poly", "metal")),
                Parameter(name="width", kind=Kind.ORDINAL, choices=(1, 3, 5)),
                Parameter(name="held", low=0.0, high=1.0),
            ),
        ),
        fixed={"held": 0.25},
    )
    design = generate(recipe(generator, size=size), region)
    points = [tuple(each.values()) for each in design.points()]
    assert len(points) == size
    assert len(set(points)) == 6
    counts = {points.count(each) for each in points}
    assert max(counts) - min(counts) <= 1
    assert design.version.startswith("every_point/1")
    assert assess(design).distinct_count == 6
