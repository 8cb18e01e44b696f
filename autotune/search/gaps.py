"""Exact schedules: dynamic programming over the computed steps, every number of them at once.

Source: DPCache, arXiv:2602.22654 (the cost of a gap depends on the two computed steps before it) for the sum,
LeMiCa, arXiv:2511.00090 (the worst gap of a path is made as small as can be) for the maximum. Ours: a gap
costs the squared residual error under the chosen predictor, weighted by the picture's sensitivity to each
step, and comes from inner products of the recorded residuals alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autotune.scoring.profile import Array
from autotune.search.asked import Rule
from autotune.search.replay import Replay
from xslim.policy.policy import Predictor

MAX_GAP = 24  # longest run of skips considered: half of the usual 50 steps


@dataclass(frozen=True, slots=True)
class Plan:
    """The best schedule with some number of computed steps; no steps where none exists."""

    steps: tuple[int, ...]
    cost: float


def step_errors(replay: Replay, predictor: Predictor, max_gap: int = MAX_GAP) -> Array:
    """Squared residual error [i, j, t] of step t with j computed last and i before it; i = j means no i.

    A prediction that reads more computed steps is costed as it is from two, which the exact recursion over
    pairs can hold. Infinite where the gap is longer than allowed, or i is not before j.
    """
    steps = replay.profile.num_steps
    found = np.full((steps, steps, steps), np.inf)
    for j in range(steps):
        for i in range(j + 1):
            if predictor.history == 1 and i != j:
                continue
            nodes = (j,) if i == j else (j, i)
            ahead = range(j + 1, min(steps, j + 1 + max_gap))
            if ahead:
                found[i, j, ahead.start : ahead.stop] = _errors(replay, predictor, nodes, ahead)
    if predictor.history == 1:
        for j in range(steps):
            found[: j + 1, j] = found[j, j]
    return found


def _errors(replay: Replay, predictor: Predictor, nodes: tuple[int, ...], ahead: range) -> Array:
    """Squared errors of the steps `ahead`: |w . residuals of the nodes - residual of the step|^2 of each."""
    w = np.array([replay.predicted(predictor, nodes, step) for step in ahead])
    kept, gram, at = list(nodes[: w.shape[1]]), replay.gram, slice(ahead.start, ahead.stop)
    own, cross = gram.diagonal()[at], np.einsum("tn,nt->t", w, gram[kept, at])
    squared: Array = np.einsum("tn,nm,tm->t", w, gram[np.ix_(kept, kept)], w) - 2 * cross + own
    return squared.clip(0.0)


def gap_costs(errors: Array, sensitivity: Array) -> Array:
    """Cost [i, j, k] of skipping j+1 .. k-1 with j computed last and i before it, k up to the end.

    Shapes: errors as of `step_errors`, sensitivity [steps] -> [steps, steps, steps + 1].
    """
    steps = len(sensitivity)
    costs = np.full((steps, steps, steps + 1), np.inf)
    for j in range(steps):
        costs[: j + 1, j, j + 1] = 0.0
        weighted = errors[: j + 1, j, j + 1 :] * sensitivity[j + 1 :] ** 2
        costs[: j + 1, j, j + 2 :] = np.cumsum(weighted, axis=1)
    return costs


def plans(costs: Array, rule: Rule = "sum") -> list[Plan]:
    """Return the best schedule for every count of computed steps, from 0 to all.

    State: the last two computed steps. D[i, j] after m computed steps is the least cost of everything
    before j; closing adds the tail.

    Args:
        costs: of `gap_costs`.
        rule: whether a schedule costs the sum of its gaps, or its worst one.
    """
    steps = costs.shape[0]
    join = np.add if rule == "sum" else np.maximum
    best = np.full((steps, steps), np.inf)
    best[0, 0] = 0.0  # one computed step: the first
    parents: list[NDArray[np.int64]] = []
    found = [Plan((), np.inf)]
    for count in range(1, steps + 1):
        final = join(best, costs[:, :, steps])
        i, j = np.unravel_index(int(np.argmin(final)), final.shape)
        exists = np.isfinite(final[i, j])
        found.append(Plan(_backtrack(parents, int(i), int(j)) if exists else (), float(final[i, j])))
        if count == steps:
            break
        # next step k after (i, j): new state (j, k)
        through = join(best[:, :, None], costs[:, :, :steps])  # [i, j, k]
        parent = np.argmin(through, axis=0)  # [j, k]
        best = np.take_along_axis(through, parent[None], axis=0)[0]
        best[np.tril_indices(steps)] = np.inf
        parents.append(parent)
    return found


def evenly(weights: Array, count: int, max_gap: int = MAX_GAP) -> tuple[int, ...]:
    """Return steps that part the weights evenly: every k-th one of equal weights.

    Source: FORA, arXiv:2407.01425, for equal weights.

    Args:
        weights: [steps], positive.
        count: computed steps; clipped to the steps there are, and raised until the gaps are allowed.
        max_gap: skips in a row at most.
    """
    steps = len(weights)
    before = np.cumsum(weights) - weights
    count = min(max(count, 1), steps)
    shares = np.arange(count) / count * float(np.sum(weights))
    found = np.searchsorted(before, shares * (1 + 1e-9), side="right") - 1
    rank = np.arange(count)
    found = np.maximum.accumulate(found - rank) + rank  # no step twice
    found = np.minimum(found, steps - count + rank)
    if count < steps and int(np.max(np.diff([*found, steps]))) - 1 > max_gap:
        return evenly(weights, count + 1, max_gap)
    return tuple(int(step) for step in found)


def _backtrack(parents: list[NDArray[np.int64]], i: int, j: int) -> tuple[int, ...]:
    path = [j]
    for parent in reversed(parents):
        path.append(i)
        i, j = int(parent[i, j]), i
    return tuple(sorted(set(path)))
