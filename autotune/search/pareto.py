"""Pareto fronts and hypervolumes; every objective is minimised here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


def front(points: Sequence[Sequence[float]]) -> list[int]:
    """Return the indices of the points that no other point beats, in their order; of equals the first.

    Args:
        points: one row a candidate, smaller is better.
    """
    kept = []
    for i, a in enumerate(points):
        beaten = any(
            all(y <= x for x, y in zip(a, b, strict=True))
            and (any(y < x for x, y in zip(a, b, strict=True)) or j < i)
            for j, b in enumerate(points)
            if j != i
        )
        if not beaten:
            kept.append(i)
    return kept


def hypervolume(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """Volume between the points and a reference that they beat; two or three objectives.

    Args:
        points: one row a candidate, smaller is better; those that do not beat the reference count 0.
        reference: the worst value of each objective.
    """
    inside = [tuple(p) for p in points if all(x < r for x, r in zip(p, reference, strict=True))]
    if not inside:
        return 0.0
    if len(reference) == 2:
        return _area(inside, reference)
    # slice along the last objective: between two heights the area of everything below does not change
    volume = 0.0
    heights = sorted({p[2] for p in inside})
    for low, high in zip(heights, [*heights[1:], reference[2]], strict=True):
        below = [p[:2] for p in inside if p[2] <= low]
        volume += _area(below, reference[:2]) * (high - low)
    return volume


def _area(points: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    area, ceiling = 0.0, reference[1]
    for x, y in sorted((p[0], p[1]) for p in points):
        if y < ceiling:
            area += (reference[0] - x) * (ceiling - y)
            ceiling = y
    return area


def spread(points: Sequence[Sequence[float]], count: int) -> list[int]:
    """Choose up to `count` points spread evenly along the first objective; both ends are kept."""
    order = sorted(range(len(points)), key=lambda i: tuple(points[i]))
    if len(order) <= count:
        return order
    positions = np.linspace(0, len(order) - 1, count)
    return [order[round(float(p))] for p in positions]
