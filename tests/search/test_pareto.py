"""Fronts and hypervolumes against their definitions, and against Optuna's own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._hypervolume import compute_hypervolume

from autotune.search.pareto import front, hypervolume, spread

# a coarse grid, so that equal points and equal coordinates are common
coordinates = st.integers(0, 8).map(lambda n: n / 8)
point_lists = st.integers(2, 3).flatmap(
    lambda width: st.lists(st.tuples(*[coordinates] * width), min_size=1, max_size=24)
)


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


@given(point_lists)
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, ...]]) -> None:
    kept = front(points)
    assert kept == sorted(kept)
    for i in kept:
        assert not any(dominates(p, points[i]) for p in points)
        assert points.index(points[i]) == i, "of equals the first"
    for i in set(range(len(points))) - set(kept):
        assert any(dominates(points[k], points[i]) or points[k] == points[i] for k in kept)


@given(point_lists)
def test_the_hypervolume_is_optunas(points: list[tuple[float, ...]]) -> None:
    reference = [1.0] * len(points[0])
    expected = compute_hypervolume(np.array(points), np.array(reference))
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("width", [2, 3])
def test_the_hypervolume_of_scattered_points_is_optunas(width: int) -> None:
    rng = np.random.default_rng(width)
    for _ in range(20):
        points, reference = rng.normal(size=(30, width)), rng.normal(1, 1, size=width)
        inside = points[(points < reference).all(1)]
        expected = compute_hypervolume(inside, reference) if len(inside) else 0.0
        assert hypervolume(points.tolist(), reference.tolist()) == pytest.approx(expected, rel=1e-9)


@given(point_lists)
def test_the_hypervolume_is_that_of_the_front_and_grows(points: list[tuple[float, ...]]) -> None:
    reference = [1.0] * len(points[0])
    whole = hypervolume(points, reference)
    assert hypervolume([points[i] for i in front(points)], reference) == pytest.approx(whole, abs=1e-12)
    assert hypervolume(points[1:], reference) <= whole + 1e-12


def test_points_beyond_the_reference_count_nothing() -> None:
    assert hypervolume([], [1.0, 1.0]) == 0.0
    assert hypervolume([(1.0, 0.0), (0.5, 2.0)], [1.0, 1.0]) == 0.0
    assert hypervolume([(0.5, 0.5), (0.0, 5.0)], [1.0, 1.0]) == 0.25


@given(point_lists, st.integers(2, 8))
def test_a_spread_keeps_both_ends(points: list[tuple[float, ...]], count: int) -> None:
    chosen = spread(points, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(points))
    values = [points[i] for i in chosen]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (min(points), max(points))
