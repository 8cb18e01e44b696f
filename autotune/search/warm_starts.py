"""Warm starts: points that need no search, from the profile and from the space's own seeds."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import numpy as np

from autotune.search.schedules import Scheduler
from autotune.search.space import Choice, IntRange, SearchSpace
from xslim.policy.policy import Predictor

Point = tuple[str, dict[str, Any]]


def warm_starts(space: SearchSpace, scheduler: Scheduler, count: int) -> list[Point]:
    """Return up to `count` points: each family's seeds, and schedules over every budget.

    Args:
        space: the search space.
        scheduler: schedules of the profile.
        count: points wanted.
    """
    of_families = [
        [(name, {**family.middle(), **seed}) for seed in family.seeds]
        for name, family in space.families.items()
    ]
    # the families in turn, so that one with many seeds does not keep out another
    seeds = [seed for turn in zip_longest(*of_families) for seed in turn if seed is not None]
    planned = [
        point
        for name, family in space.families.items()
        if "schedule.full_steps" in family.params
        for point in _budgets(space, name, scheduler, count)
    ]
    # schedules first: they are the best points known; one seed after every three of them
    merged: list[Point] = []
    while (planned or seeds) and len(merged) < count:
        merged += planned[:3]
        planned = planned[3:]
        merged += seeds[:1]
        seeds = seeds[1:]
    return merged[:count]


def _budgets(space: SearchSpace, name: str, scheduler: Scheduler, count: int) -> list[Point]:
    """Schedules with computed steps spread over the searched range, best predictor for each."""
    family = space.families[name]
    searched = family.params["schedule.full_steps"]
    if not isinstance(searched, IntRange):
        return []
    predictors = _predictors(family.params.get("predictor"))
    budgets = sorted({round(float(b)) for b in np.geomspace(searched.low, searched.high, count)})
    order = _spread_order(budgets)
    points = []
    for budget in order:
        best = min(predictors, key=lambda p: scheduler.cost(p, budget))
        params = {**family.middle(), "schedule.full_steps": budget, "schedule.refreshes": 0}
        if "predictor" in family.params:
            params["predictor"] = _as_choice(family.params["predictor"], best)
        points.append((name, params))
    return points


def _spread_order(values: list[int]) -> list[int]:
    """Middle first, then ends, then what lies between: any prefix covers the range."""
    order, intervals = [], [(0, len(values) - 1)]
    while intervals:
        low, high = intervals.pop(0)
        if low > high:
            continue
        middle = (low + high) // 2
        order.append(values[middle])
        intervals += [(low, middle - 1), (middle + 1, high)]
    return order


def _predictors(searched: object) -> list[Predictor]:
    if not isinstance(searched, Choice):
        return [Predictor()]
    return [Predictor.parse(choice) for choice in searched.choices]


def _as_choice(searched: object, predictor: Predictor) -> Any:
    if not isinstance(searched, Choice):
        raise TypeError("a predictor is searched among choices")
    return next(choice for choice in searched.choices if Predictor.parse(choice) == predictor)
