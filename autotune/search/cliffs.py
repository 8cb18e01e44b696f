"""Cliffs: members of the front whose closest surroundings are far worse, which luck or noise has put there.

A preset meets other prompts and other noise than the search, so a point is worth little when a threshold
moved by three hundredths of its range ruins the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from autotune.search.points import CRITICAL, Point
from autotune.search.ranges import FloatRange
from autotune.search.space import SearchSpace
from autotune.search.trial_row import TrialRow

NUDGE = 0.03  # of a key's range
STEEP = math.log(4.0)  # growth of the squared error that makes a cliff: 6 dB
FIRST = (CRITICAL, "controller.critical", "schedule.tilt")  # keys that are moved, the first that is searched


def surroundings(space: SearchSpace, family: str, params: dict[str, object]) -> Iterator[Point]:
    """The points on both sides of one, along the key that decides most; none without a number to move."""
    ranges = {k: r for k, r in space.families[family].params.items() if isinstance(r, FloatRange)}
    key = next((k for k in (*FIRST, *ranges) if k in ranges), None)
    if key is None:
        return
    searched, value = ranges[key], float(str(params[key]))
    step = NUDGE * (searched.high - searched.low)
    for moved in (value - step, value + step):
        if searched.low <= moved <= searched.high:
            yield family, {**params, key: moved}


def cliffs(rows: Sequence[TrialRow], metric: str) -> dict[int, int]:
    """Return trial -> the neighbour that is far worse, of all trials that neighbours were looked at for.

    Args:
        rows: of the search.
        metric: whose errors are compared, case by case.
    """
    by_trial = {row.trial: row for row in rows}
    found = {}
    for row in rows:
        if row.neighbour_of is None or row.duplicate_of is not None:
            continue
        member = by_trial[row.neighbour_of]
        if _mean(row, metric, len(row.errors.get(metric, ()))) - _mean(member, metric, row.cases) > STEEP:
            found[member.trial] = row.trial
    return found


def _mean(row: TrialRow, metric: str, count: int) -> float:
    errors = row.errors.get(metric, [])[:count]
    return sum(errors) / len(errors) if errors else 0.0
