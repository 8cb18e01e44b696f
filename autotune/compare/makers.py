"""Makers: from a recipe with one point and a profile to the policy that runs, and how it is sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from autotune.compare.block_tables import (
    Table,
    bac_table,
    delta_table,
    due_steps,
    held_steps,
    profiled_table,
    smooth_table,
)
from autotune.compare.recipe import Recipe
from autotune.compare.settings import (
    Authors,
    AuthorsTuner,
    Bac,
    DeltaRange,
    LeastSum,
    ProfiledBlocks,
    Refit,
    Smooth,
    StaticSet,
    Steps,
    Uniform,
)
from autotune.scoring.lesson import Learned
from autotune.scoring.profile import Array, Profile
from autotune.search.gaps import Plan, gap_costs, plans, step_errors
from autotune.search.replay import Replay
from xslim._registry import Registry
from xslim.errors import ConfigError
from xslim.policy.authors import author_policy, threshold_of, tune_offline
from xslim.policy.policy import TABLE_SIGNALS, Policy, Predictor


@dataclass(frozen=True)
class Bench:
    """What makers work with.

    Attributes:
        profile: of the uncached model at the reference's steps.
        kinds: kind of every block, in the order they run.
    """

    profile: Profile
    kinds: tuple[str, ...]
    _errors: dict[Predictor, Array] = field(default_factory=dict)

    def step_errors(self, predictor: Predictor) -> Array:
        """Errors of all gaps, as of `autotune.search.gaps.step_errors`; found once for all points."""
        if predictor not in self._errors:
            self._errors[predictor] = step_errors(Replay(self.profile), predictor)
        return self._errors[predictor]

    @property
    def steps(self) -> int:
        """Denoising steps of the reference."""
        return self.profile.num_steps

    def count(self, share: float) -> int:
        """A share of the steps as a number of them."""
        return max(1, round(share * self.steps))

    @property
    def blocks(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Inner products of each block's residuals.

        Raises:
            ConfigError: the profile has none, because calls do not run every block.
        """
        if not self.profile.blocks.size:
            raise ConfigError("the profile has no residuals of blocks: not every call runs every block")
        return self.profile.blocks


Maker = Callable[[Recipe, Bench], Learned]


def make(recipe: Recipe, bench: Bench) -> Learned:
    """Make a recipe's one point.

    Raises:
        ConfigError: the policy is none, or the model has not what the maker needs.
    """
    return MAKERS[recipe.make](recipe, bench)


def _base(recipe: Recipe, **parts: Any) -> Policy:
    """The recipe's policy with some parts in place of its own."""
    return Policy.parse({**(recipe.policy or {}), **parts})


def _pattern(recipe: Recipe, bench: Bench, full: tuple[int, ...]) -> Learned:
    letters = "".join("F" if step in set(full) else "." for step in range(bench.steps))
    return Learned(_base(recipe, controller={"kind": "pattern", "steps": letters}), recipe.sampling)


def _table(recipe: Recipe, table: Table) -> Learned:
    return Learned(_base(recipe, controller={"kind": "table", "blocks": table.tolist()}), recipe.sampling)


def as_it_is(recipe: Recipe, bench: Bench) -> Learned:
    """The recipe's own policy."""
    return Learned(_base(recipe), recipe.sampling)


def calibrated(recipe: Recipe, bench: Bench) -> Learned:
    """The recipe's policy with the profile's table of each signal that needs one."""
    policy = dict(recipe.policy or {})
    indicator = dict(policy.get("indicator", {}))
    wanted = [name for name in indicator.get("signals", {}) if name in TABLE_SIGNALS]
    indicator["calibration"] = {
        **{name: bench.profile.calibration[name].to_data() for name in wanted},
        **indicator.get("calibration", {}),
    }
    policy["indicator"] = indicator
    return Learned(Policy.parse(policy), recipe.sampling)


def refitted(recipe: Recipe, bench: Bench) -> Learned:
    """TeaCache's fit on the profile: a polynomial from the signal to the residual's relative change."""
    policy = dict(recipe.policy or {})
    indicator = dict(policy.get("indicator", {}))
    degree = Refit.parse(recipe.settings).degree
    fitted = {}
    for name in indicator.get("signals", {}):
        x, y = bench.profile.signals[name], bench.profile.change
        known = np.isfinite(x).all(axis=1)
        coefficients = np.polyfit(x[known].mean(axis=1), y[known], degree)
        fitted[name] = {"polynomial": [float(f"{c:.9g}") for c in coefficients]}
    policy["indicator"] = {**indicator, "calibration": fitted}
    return Learned(Policy.parse(policy), recipe.sampling)


def full(recipe: Recipe, bench: Bench) -> Learned:
    """Every step in full, for a method that learns the rest."""
    return _pattern(recipe, bench, tuple(range(bench.steps)))


def uniform(recipe: Recipe, bench: Bench) -> Learned:
    """Every n-th step, first and last one, as a pattern: what is fitted step by step needs one."""
    every = Uniform.parse(recipe.settings).every
    return _pattern(recipe, bench, tuple(sorted({*range(0, bench.steps, every), bench.steps - 1})))


def fewer_steps(recipe: Recipe, bench: Bench) -> Learned:
    """The uncached model with a share of the steps."""
    steps = max(2, bench.count(Steps.parse(recipe.settings).share))
    sampling = recipe.sampling.model_copy(update={"num_steps": steps}).against(bench.steps)
    return Learned(Policy.from_pattern("F" * steps), sampling)


def least_sum(recipe: Recipe, bench: Bench) -> Learned:
    """DPCache's path: the least sum of prediction errors, its first steps computed."""
    settings = LeastSum.parse(recipe.settings)
    first = min(settings.first, bench.steps)
    costs = _gap_costs(recipe, bench, np.ones(bench.steps))
    for step in range(first - 1):
        costs[:, step, step + 2 :] = np.inf
    count = max(first, bench.count(settings.share))
    return _pattern(recipe, bench, _planned(plans(costs), count).steps)


def least_worst(recipe: Recipe, bench: Bench) -> Learned:
    """LeMiCa's path: the least worst gap by what the picture loses, and of those the least sum."""
    costs = _gap_costs(recipe, bench, bench.profile.sensitivity)
    count = bench.count(Steps.parse(recipe.settings).share)
    worst = _planned(plans(costs, "max"), count).cost
    costs[costs > worst * (1 + 1e-9)] = np.inf
    return _pattern(recipe, bench, _planned(plans(costs), count).steps)


def _gap_costs(recipe: Recipe, bench: Bench, sensitivity: Array) -> Array:
    predictor = Predictor.parse((recipe.policy or {}).get("predictor", {}))
    return gap_costs(bench.step_errors(predictor), sensitivity)


def _planned(found: Sequence[Plan], count: int) -> Plan:
    """The plan with so many computed steps, or with the next number that has one."""
    return next(plan for plan in found[min(count, len(found) - 1) :] if plan.steps)


def authors(recipe: Recipe, bench: Bench) -> Learned:
    """A schedule that the authors of X-Slim released."""
    settings = Authors.parse(recipe.settings)
    return Learned(author_policy(settings.model, settings.mode), recipe.sampling)


def authors_tuner(recipe: Recipe, bench: Bench) -> Learned:
    """The offline tuner of X-Slim's authors, its threshold in means of the profiled curve."""
    settings, curve = AuthorsTuner.parse(recipe.settings), [float(v) for v in bench.profile.curve]
    letters = tune_offline(curve, threshold_of(curve, "mean") * settings.means)
    if not settings.refreshes:
        letters = letters.replace("B", "F").replace("T", "F")
    return Learned(_base(recipe, controller={"kind": "pattern", "steps": letters}), recipe.sampling)


def smooth(recipe: Recipe, bench: Bench) -> Learned:
    """SmoothCache's greedy lists, one for each kind of block."""
    settings = Smooth.parse(recipe.settings)
    return _table(recipe, smooth_table(bench.blocks, bench.kinds, settings.alpha, settings.ahead))


def bac(recipe: Recipe, bench: Bench) -> Learned:
    """BAC's updates for each block, and the bubbling union."""
    settings = Bac.parse(recipe.settings)
    return _table(recipe, bac_table(bench.blocks, bench.count(settings.share), settings.bubbling))


def profiled_blocks(recipe: Recipe, bench: Bench) -> Learned:
    """ProfilingDiT's lists of blocks between falling intervals."""
    settings = ProfiledBlocks.parse(recipe.settings)
    warmup = bench.count(settings.warmup_share)
    full = due_steps(bench.steps, warmup, settings.every, settings.slowest)
    return _table(recipe, profiled_table(bench.blocks, settings.share, full))


def delta_range(recipe: Recipe, bench: Bench) -> Learned:
    """Delta-DiT's range of blocks, at the back early and at the front late."""
    settings = DeltaRange.parse(recipe.settings)
    full = due_steps(bench.steps, 1, settings.every)
    return _table(recipe, delta_table(len(bench.kinds), bench.steps, settings.share, full, settings.turn))


def static_set(recipe: Recipe, bench: Bench) -> Learned:
    """ERTACache's static set of full steps."""
    settings, gram = StaticSet.parse(recipe.settings), bench.profile.gram.mean(0)
    return _pattern(recipe, bench, held_steps(gram, settings.threshold, settings.first, settings.last))


MAKERS: Mapping[str, Maker] = Registry(
    "maker",
    MappingProxyType(
        {
            "policy": as_it_is,
            "calibrated": calibrated,
            "refitted": refitted,
            "full": full,
            "uniform": uniform,
            "fewer-steps": fewer_steps,
            "least-sum": least_sum,
            "least-worst": least_worst,
            "authors": authors,
            "authors-tuner": authors_tuner,
            "smooth": smooth,
            "bac": bac,
            "profiled-blocks": profiled_blocks,
            "delta-range": delta_range,
            "static-set": static_set,
        }
    ),
    ConfigError,
)
