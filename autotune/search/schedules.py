"""Static schedules from the profile: exact dynamic programming over the computed steps.

Source: DPCache, arXiv:2602.22654 (the cost of a gap depends on the two computed steps before it). Ours:
the cost is the squared residual error under the chosen predictor, weighted by the measured sensitivity
of the picture to each step, and comes from inner products of the recorded residuals alone.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.scoring.profile import Profile
from xslim.policy.decision import Action
from xslim.policy.policy import Predictor
from xslim.runtime.predictors import Kept, weights

MAX_GAP = 24  # longest run of skips considered: half of the usual 50 steps


@dataclass(frozen=True, slots=True)
class Plan:
    """The best schedule with some number of computed steps; no steps where none exists."""

    steps: tuple[int, ...]
    cost: float


@dataclass(frozen=True)
class Scheduler:
    """Computes schedules for one profile; remembers what it computed."""

    profile: Profile
    max_gap: int = MAX_GAP
    _plans: dict[Predictor, list[Plan]] = field(default_factory=dict)

    def computed_steps(self, predictor: Predictor, full_steps: int) -> tuple[int, ...]:
        """Return which steps to compute, so many in all, first one included.

        Args:
            predictor: what fills the skipped steps.
            full_steps: number of computed steps; clipped to what a schedule can have.
        """
        plans = self._planned(predictor)
        fewest = next(count for count, plan in enumerate(plans) if plan.steps)
        return plans[min(max(full_steps, fewest), self.profile.num_steps)].steps

    def cost(self, predictor: Predictor, full_steps: int) -> float:
        """Estimated squared picture error of the best schedule; infinite where there is none."""
        return self._planned(predictor)[min(full_steps, self.profile.num_steps)].cost

    def _planned(self, predictor: Predictor) -> list[Plan]:
        if predictor not in self._plans:
            self._plans[predictor] = _plan(self._gap_costs(predictor), self.profile.num_steps)
        return self._plans[predictor]

    def pattern(self, predictor: Predictor, full_steps: int, refreshes: int, polish: str) -> str:
        """Return a schedule with block or token refreshes in the middle of its longest gaps.

        Args:
            predictor: what fills the skipped steps.
            full_steps: computed steps.
            refreshes: how many skipped steps become refreshes, the middle of the costliest gaps first.
            polish: letters that the refreshes take in turn, such as `T` or `BT`.
        """
        steps = self.computed_steps(predictor, full_steps)
        letters = [str(Action.SKIP)] * self.profile.num_steps
        for step in steps:
            letters[step] = Action.FULL
        bounds = [*steps, self.profile.num_steps]
        gaps = [(a, b) for a, b in itertools.pairwise(bounds) if b - a >= 3]
        gaps.sort(key=lambda gap: (-self._gap_weight(*gap), gap))
        chosen = sorted((a + b) // 2 for a, b in gaps[:refreshes])
        for i, step in enumerate(chosen):
            letters[step] = polish[i % len(polish)]
        return "".join(letters)

    def _gap_weight(self, start: int, end: int) -> float:
        """How much a gap costs when the residual is held through it."""
        return float(sum(self._error((start,), (1.0,), step) for step in range(start + 1, end)))

    def _weights(self, predictor: Predictor, nodes: tuple[int, ...], step: int) -> tuple[float, ...]:
        """Weights of some computed steps, newest first, for a predicted one."""

        def dot(i: int, j: int) -> Tensor:
            return torch.tensor(self._mean_gram[nodes[i], nodes[j]])

        times = tuple(float(node) for node in nodes)
        found = weights(predictor, Kept(times, float(step), self.profile.num_steps, dot))
        return tuple(float(w) for w in found)

    def _error(self, nodes: tuple[int, ...], w: tuple[float, ...], step: int) -> float:
        """Weighted squared error of predicting a step's residual from some computed ones."""
        index = [*nodes, step]
        coefficients = np.array([*w, -1.0])
        gram = self._mean_gram[np.ix_(index, index)]
        error = float(coefficients @ gram @ coefficients)
        return max(error, 0.0) * float(self.profile.sensitivity[step]) ** 2

    @cached_property
    def _mean_gram(self) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = self.profile.gram.mean(0)
        return mean

    def _gap_costs(self, predictor: Predictor) -> NDArray[np.float64]:
        """Cost [i, j, k] of skipping j+1 .. k-1 with j computed last and i before it; i = j means no i.

        A prediction that reads more computed steps is costed as it is from two, at order 1, which the
        exact recursion over pairs can hold.
        """
        steps = self.profile.num_steps
        costs = np.full((steps, steps, steps + 1), np.inf)
        for j in range(steps):
            for i in range(j + 1):
                if predictor.history == 1 and i != j:
                    costs[i, j] = costs[j, j]
                    continue
                nodes = (j,) if i == j else (j, i)
                total = 0.0
                costs[i, j, j + 1] = 0.0
                for k in range(j + 2, min(steps, j + 1 + self.max_gap) + 1):
                    total += self._error(nodes, self._weights(predictor, nodes, k - 1), k - 1)
                    costs[i, j, k] = total
        if predictor.history == 1:  # filled after the diagonal is known
            for j in range(steps):
                costs[: j + 1, j] = costs[j, j]
        return costs


def _plan(costs: NDArray[np.float64], steps: int) -> list[Plan]:
    """Return the best schedule for every count of computed steps.

    State: the last two computed steps. D[i, j] after m computed steps is the least cost of everything
    before j; closing adds the tail.
    """
    best = np.full((steps, steps), np.inf)
    best[0, 0] = 0.0  # one computed step: the first
    parents: list[NDArray[np.int64]] = []
    plans = [Plan((), np.inf)]
    for count in range(1, steps + 1):
        final = best + costs[:, :, steps]
        i, j = np.unravel_index(int(np.argmin(final)), final.shape)
        found = np.isfinite(final[i, j])
        plans.append(Plan(_backtrack(parents, int(i), int(j)) if found else (), float(final[i, j])))
        if count == steps:
            break
        # next step k after (i, j): new state (j, k)
        through = best[:, :, None] + costs[:, :, :steps]  # [i, j, k]
        parent = np.argmin(through, axis=0)  # [j, k]
        best = np.take_along_axis(through, parent[None], axis=0)[0]
        best[np.tril_indices(steps)] = np.inf
        parents.append(parent)
    return plans


def _backtrack(parents: list[NDArray[np.int64]], i: int, j: int) -> tuple[int, ...]:
    path = [j]
    for parent in reversed(parents):
        path.append(i)
        i, j = int(parent[i, j]), i
    return tuple(sorted(set(path)))
