"""Warm starts: the points a search begins with: seeds, and what replay finds best."""

from __future__ import annotations

from autotune.search.points import Point, schedulers, seeds
from autotune.search.screening import Screen


def warm_starts(screen: Screen, count: int) -> list[Point]:
    """Return the space's seeds and up to `count` points that replay chooses, the most promising first.

    Replay knows the pipeline's own scheduler only. So a family that has no seeds under another one has one of
    the chosen points tried under each of its other schedulers.

    Args:
        screen: replays points of its space.
        count: points wanted beside the seeds; with 0 the seeds are not tried either.
    """
    if not count:
        return []
    named = list(seeds(screen.space, screen.scheduler.profile.num_steps))
    known = {screen.candidate(*point).key for point in named}
    free = (point for point in screen.points() if screen.candidate(*point).key not in known)
    found = [(chosen.family, chosen.params) for chosen in screen.first(free, count)]
    families = {family for family, params in named if screen.setting(family, params)[1].scheduler is not None}
    others = [point for point in schedulers(screen.space, found) if point[0] not in families][: count // 2]
    return [*named, *found[: count - len(others)], *others]
