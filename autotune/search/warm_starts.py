"""Warm starts: the points a search begins with, chosen by replay from schedules, thresholds and seeds."""

from __future__ import annotations

from itertools import chain

from autotune.search.points import Point, schedulers, seeds
from autotune.search.screening import Screen


def warm_starts(screen: Screen, count: int) -> list[Point]:
    """Return up to `count` points, the most promising first; the last ones try other schedulers.

    Args:
        screen: replays points of its space.
        count: points wanted.
    """
    if not count:
        return []
    points = chain(screen.points(), seeds(screen.space, screen.scheduler.profile.num_steps))
    found = [(chosen.family, chosen.params) for chosen in screen.first(points, count)]
    others = list(schedulers(screen.space, found))[: count // 2]
    return [*found[: count - len(others)], *others]
