"""Warm starts: the points a search begins with, chosen by replay from schedules, thresholds and seeds."""

from __future__ import annotations

from itertools import chain

from autotune.search.points import Point, budgets, seeds
from autotune.search.screening import Screen


def warm_starts(screen: Screen, count: int) -> list[Point]:
    """Return up to `count` points, the most promising first.

    Args:
        screen: replays points of its space.
        count: points wanted.
    """
    points = chain(budgets(screen.space), seeds(screen.space))
    return [(chosen.family, chosen.params) for chosen in screen.first(points, count)] if count else []
