"""The search history: hypervolume and the best trial at each bound, trial by trial."""

from __future__ import annotations

from typing import Any

from autotune.report.sources import Search
from autotune.search.pareto import front, hypervolume
from autotune.search.status import best_at_bounds

MAX_POINTS = 300  # of a curve


def history(search: Search) -> dict[str, Any]:
    """Return curves over the trials in the order they came in; JSON-ready."""
    rows = search.rows
    volumes: list[float] = []
    best: list[list[float]] = []
    for row in rows:
        if search.counts_for_front(row):
            best.append(search.minimised(row))
            best = [best[i] for i in front(best)]
        volumes.append(hypervolume(best, search.worst_point))
    chosen = sorted({round(i * (len(rows) - 1) / max(1, MAX_POINTS - 1)) for i in range(MAX_POINTS)})
    chosen = chosen if len(rows) > MAX_POINTS else list(range(len(rows)))
    return {
        "trials": [i + 1 for i in chosen],
        "hypervolume": [volumes[i] for i in chosen],
        **_best(search, chosen),
    }


def _best(search: Search, chosen: list[int]) -> dict[str, Any]:
    """The best trial at each tier's bounds and at the experiment's; None while none holds them."""
    experiment = search.experiment
    if experiment is None:
        return {"kind": "", "best": {}}
    whole = [i for i, row in enumerate(search.rows) if search.whole(row)]
    kind, curves = "speedup", dict[str, list[float | None]]()
    for i in chosen:
        found = best_at_bounds([search.rows[j] for j in whole if j <= i], experiment.tiers, experiment.bounds)
        for name, one in found.items():
            curves.setdefault(name, []).append(None if one is None else one.value)
            kind = kind if one is None else one.kind
    return {"kind": kind, "best": curves}
