"""Screening: proposes the next points from recorded trajectories, thousands for the price of one drawing.

Every candidate is replayed on the profile. The error model, fitted to what was measured so far, turns its
residual errors into the metrics of the search, and the candidate that would add most to the front is
proposed. Where the model does not rank well, it proposes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotune.scoring.profile import Array
from autotune.scoring.sampling import Sampling
from autotune.search.error_model import Fit, Weighting, fit, log_error
from autotune.search.identity import effective_key
from autotune.search.objective import COSTS, METRIC_OF, PREDICTED, TINY, Bound, log_metric
from autotune.search.pareto import front, hypervolume
from autotune.search.points import Point, budgets, variants
from autotune.search.replay import Replayed
from autotune.search.schedules import Scheduler
from autotune.search.space import SearchSpace
from xslim.policy.policy import Policy
from xslim.policy.schedule import remap

TRUSTED = 0.8  # rank correlation below which the model proposes nothing
REFIT = 4  # measured trials between two fits, at least; later a twentieth of all
FITTED = 200  # trials that are fitted to, the latest: more cost time and tell little
REMEMBERED = 2000  # candidates; each takes 20 KiB at 50 steps
GRID = 0.25  # tilt, bend and waves are rounded to it, so that schedules are computed once
OPTIMISM = 0.5  # standard deviations by which a prediction is taken to be better than it is
MOST_COMPUTE = 0.6  # share of the uncached MACs above which nothing is proposed: it saves too little
UNKNOWN = Replayed((), math.nan, np.full((1, 1), math.nan))  # of a policy that cannot be replayed
MARGIN = 0.1  # of each objective's range, beyond the worst known value, for the reference of the volume


@dataclass(frozen=True, slots=True)
class Candidate:
    """A point of the space, replayed where a profile tells what it does.

    Attributes:
        family: of the space.
        params: its point.
        policy: the policy.
        sampling: how the request is sampled.
        compute_fraction: predicted share of the uncached MACs; NaN where it cannot be replayed.
        products: inner products of its residual errors; likewise.
        key: of the policy.
    """

    family: str
    params: dict[str, Any]
    policy: Policy
    sampling: Sampling
    compute_fraction: float
    products: Array
    key: str


@dataclass
class Screen:
    """What is known of measured trials, and what it predicts.

    Attributes:
        space: where candidates come from.
        scheduler: of the profile.
        objectives: of the search.
        bounds: of the search.
    """

    space: SearchSpace
    scheduler: Scheduler
    objectives: tuple[str, ...]
    bounds: Mapping[str, Bound]
    _schedulers: dict[int, Scheduler] = field(default_factory=dict)
    _products: list[Array] = field(default_factory=list)
    _scalars: list[Mapping[str, float]] = field(default_factory=list)
    _fits: dict[str, Fit] = field(default_factory=dict)
    _noted: int = 0
    _fitted_at: int = 0
    _replayed: dict[str, Candidate] = field(default_factory=dict)

    @property
    def leading(self) -> str:
        """The quality that the weighting is fitted to: the first objective that is one, else a bound's."""
        named = [*self.objectives, *self.bounds]
        return next((name for name in named if METRIC_OF.get(name, name) in PREDICTED), "psnr")

    @property
    def rank_correlation(self) -> float:
        """Spearman's between measured values and predictions that did not see them; NaN when too few."""
        found = self._fits.get(self.leading)
        return float("nan") if found is None else found.rank_correlation

    @property
    def trusted(self) -> bool:
        """Whether it proposes anything."""
        return self.rank_correlation >= TRUSTED

    def facts(self) -> dict[str, Any]:
        """How well it ranks: metric, trials seen, rank correlation or None, whether it proposes."""
        known = np.isfinite(self.rank_correlation)
        return {
            "metric": self.leading,
            "trials": self._noted,
            "rank_correlation": round(self.rank_correlation, 4) if known else None,
            "trusted": self.trusted,
        }

    def note(self, policy: Policy, sampling: Sampling, scalars: Mapping[str, float]) -> None:
        """Take a measured trial into account, unless it cannot be replayed or has another scheduler."""
        replay = self._at(sampling).replay
        if sampling.scheduler is not None or not replay.knows(policy):
            return
        products = replay.run(policy).products
        self._products = [*self._products[1 - FITTED :], products]
        self._scalars = [*self._scalars[1 - FITTED :], scalars]
        self._noted += 1
        if self._noted >= self._fitted_at + max(REFIT, self._noted // 20):
            self._refit()

    def setting(self, family: str, params: Mapping[str, Any]) -> tuple[Policy, Sampling]:
        """The policy of a point, for the number of steps of its sampling, and the sampling."""
        profile = self.scheduler.profile
        sampling = self.space.families[family].sampling(params).against(profile.num_steps)
        policy = self.space.policy(family, params, profile.calibration, self._at(sampling))
        if sampling.num_steps is not None:
            policy = remap(policy, sampling.num_steps)
        return policy, sampling

    def points(self, weightings: Sequence[Weighting] = (Weighting(),)) -> Iterator[Point]:
        """Schedules, thresholds and other numbers of steps that are worth a look.

        Args:
            weightings: how steps weigh; a family is looked at under all of them as the reference is sampled,
                where it may be, and at other numbers of steps under the first one only.
        """
        reference, seen = self.scheduler.profile.num_steps, set[str]()
        for sampling in self.space.samplings(reference):
            part = self.space.at(sampling, reference)
            first = part.only(part.families.keys() - seen)
            yield from variants(first, weightings)
            yield from budgets(first)
            yield from variants(part.only(seen), weightings[:1])
            seen |= part.families.keys()

    def _at(self, sampling: Sampling) -> Scheduler:
        """The scheduler for the number of steps of a sampling."""
        steps = sampling.num_steps
        if steps is None:
            return self.scheduler
        if steps not in self._schedulers:
            profile = self.scheduler.profile
            self._schedulers[steps] = Scheduler(profile.at_steps(steps), reference=profile)
        return self._schedulers[steps]

    def candidate(self, family: str, params: Mapping[str, Any]) -> Candidate:
        """Replay a point, where it can be; what was replayed before is remembered."""
        key = f"{family} {sorted(params.items(), key=lambda item: item[0])!r}"
        if key not in self._replayed:
            if len(self._replayed) >= REMEMBERED:
                del self._replayed[next(iter(self._replayed))]
            policy, sampling = self.setting(family, params)
            replay = self._at(sampling).replay
            replayed = replay.run(policy) if replay.knows(policy) else UNKNOWN
            self._replayed[key] = Candidate(
                family,
                dict(params),
                policy,
                sampling,
                replayed.compute_fraction,
                replayed.products,
                effective_key(policy, sampling),
            )
        return self._replayed[key]

    def first(self, points: Iterable[Point], count: int) -> list[Candidate]:
        """Choose points to begin with: spread over the compute, the least estimated error at each.

        Points that cannot be replayed come behind these, before the rest.

        Args:
            points: candidates.
            count: how many are wanted.
        """
        weights = Weighting().matrix(self.scheduler.profile.sensitivity)
        replayed = (self.candidate(*point) for point in points)
        distinct = {candidate.key: candidate for candidate in replayed}
        pool = [candidate for candidate in distinct.values() if candidate.compute_fraction <= MOST_COMPUTE]
        errors = [float(log_error(c.products, weights)) for c in pool]
        best = front([(c.compute_fraction, error) for c, error in zip(pool, errors, strict=True)])
        rest = [i for i in range(len(pool)) if i not in set(best)]
        rest.sort(key=lambda i: self._behind(pool[i], errors[i], pool, errors, best))
        leading = [pool[i] for i in _spread_order([pool[i].compute_fraction for i in best], best)]
        unknown = [candidate for candidate in distinct.values() if np.isnan(candidate.compute_fraction)]
        return [*leading, *unknown, *(pool[i] for i in rest)][:count]

    def _behind(
        self,
        point: Candidate,
        error: float,
        pool: Sequence[Candidate],
        errors: Sequence[float],
        best: list[int],
    ) -> float:
        """How much worse a point's estimate is than the best one of no more compute."""
        return error - min(
            (errors[i] for i in best if pool[i].compute_fraction <= point.compute_fraction + TINY),
            default=error,
        )

    def propose(self, known: Set[str], best: Sequence[Mapping[str, float]]) -> Point | None:
        """Return the candidate that would add most to the front; None where the model is not trusted.

        Args:
            known: keys of policies that are measured or in work, as of `effective_key`.
            best: scalars of the front's members.
        """
        found = self._fits.get(self.leading)
        if found is None or not self.trusted or not best:
            return None
        axes = [[self._axis(name, row[name]) for name in self.objectives] for row in best]
        reference = self._reference(axes)
        base = hypervolume(axes, reference)
        chosen, gain = None, 1e-9
        for point in self.points(_around(found.weighting)):
            candidate = self.candidate(*point)
            if not candidate.compute_fraction <= MOST_COMPUTE or candidate.key in known:
                continue
            predicted = self._predicted(candidate)
            if predicted is None:
                continue
            added = hypervolume([*axes, predicted], reference) - base
            if added > gain:
                chosen, gain = candidate, added
        return None if chosen is None else (chosen.family, chosen.params)

    def _predicted(self, candidate: Candidate) -> list[float] | None:
        """Optimistic objectives on the screen's axes; None where a bound is out of reach."""
        for name, bound in self.bounds.items():
            value = self._scalar(name, candidate)
            if value is not None and value > self._axis(name, bound.limit):
                return None
        found = [self._scalar(name, candidate) for name in self.objectives]
        return None if any(value is None for value in found) else [float(v) for v in found if v is not None]

    def _scalar(self, name: str, candidate: Candidate) -> float | None:
        if name == "compute_fraction":
            return candidate.compute_fraction
        if name in COSTS or name == "speedup":
            return self._cost(name, candidate.compute_fraction)
        found = self._fits.get(name)
        if found is None:
            return None
        matrix = found.weighting.matrix(self.scheduler.profile.sensitivity)
        error = float(log_error(candidate.products, matrix))
        return found.log_metric(error) - OPTIMISM * found.spread

    def _cost(self, name: str, fraction: float) -> float:
        """A cost as a line through the measured ones over the compute fraction."""
        x = [row["compute_fraction"] for row in self._scalars]
        y = [self._axis(name, row[name]) for row in self._scalars]
        slope, offset = np.polyfit(x, y, 1) if len(set(x)) > 1 else (0.0, float(np.mean(y)))
        return float(slope * fraction + offset)

    def _axis(self, name: str, value: float) -> float:
        """A scalar as it is compared here: costs as they are, qualities as logarithms of errors."""
        if name in COSTS:
            return value
        return -value if name == "speedup" else log_metric(name, value)

    def _reference(self, axes: list[list[float]]) -> list[float]:
        worst = np.max(axes, axis=0)
        span = np.maximum(worst - np.min(axes, axis=0), 1e-6)
        return [float(v) for v in worst + MARGIN * span]

    def _refit(self) -> None:
        self._fitted_at = self._noted
        sensitivity = self.scheduler.profile.sensitivity
        named = [self.leading, *(n for n in (*self.objectives, *self.bounds) if n != self.leading)]
        for name in named:
            if METRIC_OF.get(name, name) not in PREDICTED:
                continue
            logs = [log_metric(name, row[name]) for row in self._scalars]
            found = fit(self._products, logs, sensitivity)
            if found is not None:
                self._fits[name] = found


def _around(fitted: Weighting) -> list[Weighting]:
    """The fitted weighting on a grid, and its neighbours."""
    tilt, bend, *waves = (round(v / GRID) * GRID for v in (fitted.tilt, fitted.bend, *fitted.waves))
    coherence = min(0.99, round(fitted.coherence, 2))
    steps = ((0, 0), (GRID, 0), (-GRID, 0), (0, GRID), (0, -GRID))
    return [Weighting(tilt + a, bend + b, coherence, tuple(waves)) for a, b in steps]


def _spread_order(values: Sequence[float], indices: Sequence[int]) -> list[int]:
    """Both ends, then whatever lies farthest from all chosen, on a logarithmic scale of the values."""
    left = sorted(range(len(values)), key=lambda i: values[i])
    if len(left) < 3:
        return [indices[i] for i in left]
    position = np.log(np.maximum(values, TINY))
    chosen = [left.pop(0), left.pop(-1)]
    while left:
        at = max(left, key=lambda i: (min(abs(position[i] - position[j]) for j in chosen), -i))
        left.remove(at)
        chosen.append(at)
    return [indices[i] for i in chosen]
