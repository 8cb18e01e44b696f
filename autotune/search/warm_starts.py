"""Warm starts: the points a search begins with, chosen by replay from schedules, thresholds and seeds."""

from __future__ import annotations

from itertools import chain

from autotune.search.points import Point, schedulers, seeds
from autotune.search.screening import Screen


def warm_starts(screen: Screen, count: int) -> list[Point]:
    """Return up to `count` points, the most promising first, and the seeds that replay cannot judge.

    Replay knows the pipeline's own scheduler only. So a family's seeds under another one are all tried,
    beside the points that are counted; a family without such seeds has one of the chosen points tried under
    each of its other schedulers.

    Args:
        screen: replays points of its space.
        count: points wanted; with 0 the seeds are not tried either.
    """
    if not count:
        return []
    named = list(seeds(screen.space, screen.scheduler.profile.num_steps))
    elsewhere = [point for point in named if screen.setting(*point)[1].scheduler is not None]
    points = chain(screen.points(), (point for point in named if point not in elsewhere))
    found = [(chosen.family, chosen.params) for chosen in screen.first(points, count)]
    families = {family for family, _ in elsewhere}
    others = [point for point in schedulers(screen.space, found) if point[0] not in families][: count // 2]
    return [*found[: count - len(others)], *others, *elsewhere]
