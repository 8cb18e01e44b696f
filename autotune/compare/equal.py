"""Methods at equal quality and at equal speed: pure arithmetic on a comparison's rows.

A method is the curve through its Pareto-optimal rows, straight between two of them when LPIPS and cost are
drawn logarithmically. A curve ends at its rows: nothing is extrapolated.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

from autotune.compare.recipe import FEWER, OWN
from autotune.search.pareto import front, hypervolume

SPEEDS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0)
LEAST = 1e-6  # of an LPIPS: better is not told apart, so that an exact picture does not bend a curve
CLOSE = 0.1  # of an LPIPS, within which a curve's end still tells
SHARES = (0.2, 0.8)  # of the steps, between which fewer steps set the LPIPS that is compared at

Point = tuple[float, float]  # cost (compute fraction, or latency by the uncached one), LPIPS


def curve(points: Sequence[Point]) -> list[Point]:
    """The Pareto-optimal points, cheapest first."""
    return sorted({points[i] for i in front(list(points))})


def cost_at(points: Sequence[Point], error: float) -> float | None:
    """Least cost at which a method's LPIPS is at most `error`; None where it never is.

    Args:
        points: of the method.
        error: an LPIPS.
    """
    found = curve(points)
    if not found or found[-1][1] > error:
        return None
    if found[0][1] <= error:
        return found[0][0]  # its cheapest row is good enough already
    for (cheap, worse), (dear, better) in pairwise(found):
        if better <= error:
            return _between(error, (worse, cheap), (better, dear))
    return None


def error_at(points: Sequence[Point], cost: float) -> float | None:
    """Least LPIPS of a method at a cost of at most `cost`; None where it is never so cheap."""
    found = curve(points)
    if not found or found[0][0] > cost:
        return None
    if found[-1][0] <= cost:
        return found[-1][1]
    for (cheap, worse), (dear, better) in pairwise(found):
        if dear > cost:
            return _between(cost, (cheap, worse), (dear, better))
    return None


def _between(x: float, a: Point, b: Point) -> float:
    """The straight line through two points in logarithms, at x."""
    x0, x1, y0, y1 = (math.log(max(v, LEAST)) for v in (a[0], b[0], a[1], b[1]))
    share = 0.0 if x0 == x1 else (math.log(max(x, LEAST)) - x0) / (x1 - x0)
    return math.exp(y0 + (y1 - y0) * share)


def by_method(rows: Sequence[Mapping[str, Any]], cost: str) -> dict[str, list[Point]]:
    """Points of every method; rows without this cost are left out.

    Args:
        rows: of a comparison.
        cost: `compute_fraction`, or `latency` for one over the speedup.
    """
    found: dict[str, list[Point]] = defaultdict(list)
    for row in rows:
        value = row["compute_fraction"] if cost == "compute_fraction" else row["speedup"]
        error = row["metrics"].get("lpips")
        if value and error is not None:
            found[row["method"]].append((value if cost == "compute_fraction" else 1.0 / value, error))
    return dict(found)


def at_equal_quality(rows: Sequence[Mapping[str, Any]], cost: str) -> list[dict[str, Any]]:
    """At every LPIPS that fewer steps reach between a fifth and four fifths of the steps: each method's cost.

    Returns:
        One entry an LPIPS, the smallest first: `lpips`, `share` of the steps, method -> `cost` or None, and
        the methods that are `ended` there: their cheapest row is better than asked for, so that a wider sweep
        might have been cheaper.
    """
    methods = by_method(rows, cost)
    targets = sorted(
        (row["metrics"]["lpips"], row["config"]["share"])
        for row in rows
        if row["method"] == FEWER
        and SHARES[0] <= row["config"]["share"] <= SHARES[1]
        and row["metrics"].get("lpips") is not None
    )
    return [
        {
            "lpips": error,
            "share": share,
            "cost": {method: cost_at(points, error) for method, points in methods.items()},
            "ended": sorted(m for m, points in methods.items() if curve(points)[0][1] < error * (1 - CLOSE)),
        }
        for error, share in targets
    ]


def at_equal_speed(
    rows: Sequence[Mapping[str, Any]], speeds: Sequence[float] = SPEEDS
) -> list[dict[str, Any]]:
    """At some measured speedups: each method's LPIPS, None where it is not so fast."""
    methods = by_method(rows, "latency")
    return [
        {
            "speedup": speed,
            "lpips": {method: error_at(points, 1.0 / speed) for method, points in methods.items()},
        }
        for speed in speeds
    ]


def volumes(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Hypervolume of every method over compute fraction and LPIPS.

    The reference point is a compute fraction of 1 and the LPIPS of fewer steps at the smallest share that is
    compared at.
    """
    methods = by_method(rows, "compute_fraction")
    worst = max((entry["lpips"] for entry in at_equal_quality(rows, "compute_fraction")), default=0.0)
    return {method: hypervolume(points, (1.0, worst)) for method, points in methods.items()}


def lead(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far `autotune` is ahead, from `at_equal_quality`: ratios of costs, above 1 where it is cheaper.

    Returns:
        For each LPIPS and as medians: against fewer steps, and against the best other method with its name,
        `ended` when that one's sweep ends there. Where our presets do not reach an LPIPS the ratio is None,
        and the medians leave it out.
    """
    found = []
    for entry in entries:
        costs = dict(entry["cost"])
        ours = costs.pop(OWN, None)
        others = {method: cost for method, cost in costs.items() if cost is not None}
        best = min(others, key=lambda method: others[method], default=None)
        found.append(
            {
                "lpips": entry["lpips"],
                "share": entry["share"],
                "best": best,
                "ended": best in entry["ended"],
                "over_best": None if ours is None or best is None else others[best] / ours,
                "over_fewer_steps": None
                if ours is None or others.get(FEWER) is None
                else others[FEWER] / ours,
            }
        )
    return {
        "at": found,
        "median_over_best": _median([entry["over_best"] for entry in found]),
        "least_over_best": _least([entry["over_best"] for entry in found]),
        "median_over_fewer_steps": _median([entry["over_fewer_steps"] for entry in found]),
        "reached": sum(entry["over_best"] is not None for entry in found),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _least(values: Sequence[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _without(rows: Sequence[Mapping[str, Any]], cost: str) -> list[str]:
    """Methods that have rows, but none with this cost: nothing is said of them."""
    return sorted({row["method"] for row in rows} - by_method(rows, cost).keys())


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All of them, as `comparison.json` keeps them."""
    found: dict[str, Any] = {"hypervolume": volumes(rows)}
    for cost in ("compute_fraction", "latency"):
        entries = at_equal_quality(rows, cost)
        found[f"{cost}_at_lpips"] = entries
        found[f"{cost}_lead"] = lead(entries) | {"without": _without(rows, cost)}
    found["lpips_at_speedup"] = at_equal_speed(rows)
    return found
