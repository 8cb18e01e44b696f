"""Samplers by name, one fresh sampler per trial, seeded by the trial's place in the search.

| name | Optuna's class | bounds |
|---|---|---|
| tpe | TPESampler (arXiv 2304.11127), every key on its own | ranks by the sum of violations |
| gp | GPSampler: log expected hypervolume improvement (arXiv 2310.20708) | probability of feasibility |
| nsga2, nsga3 | NSGAIISampler, NSGAIIISampler | constrained dominance |
| qmc | QMCSampler: a scrambled Sobol sequence | none |
| random | RandomSampler | none |
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from hashlib import sha256
from types import MappingProxyType
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import (
    BaseSampler,
    GPSampler,
    NSGAIIISampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.samplers._tpe.sampler import _split_trials, default_gamma_multiobjective
from optuna.trial import FrozenTrial, TrialState

from xslim.errors import ConfigError
from xslim.policy.document import suggest

STARTUP_TRIALS = 12  # random points before a sampler models anything
POPULATION = 20  # of the genetic samplers; Optuna's 50 is near random search at a few hundred trials


class _OneSplit(TPESampler):
    """TPE for two or more objectives that ranks the trials once a proposal, not once a key.

    The points are those of Optuna's own; at 2,000 trials and 11 keys they take less than half of the time.
    """

    _split: tuple[list[FrozenTrial], list[FrozenTrial]] | None = None

    def _sample(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._split is None:
            states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
            others = [t for t in study.get_trials(deepcopy=False, states=states) if t.number != trial.number]
            finished = sum(t.state != TrialState.RUNNING for t in others)
            self._split = _split_trials(study, others, default_gamma_multiobjective(finished))
        below, above = (
            self._build_parzen_estimator(study, search_space, trials, handle_below=i == 0)
            for i, trials in enumerate(self._split)
        )
        drawn = below.sample(self._rng.rng, self._n_ei_candidates)
        best = TPESampler._compare(drawn, self._compute_acquisition_func(drawn, below, above))
        return {name: dist.to_external_repr(best[name]) for name, dist in search_space.items()}


class _Sobol(QMCSampler):
    """A Sobol sequence that is told its index, so that no counter is lost with the process."""

    def __init__(self, seed: int, index: int, independent_sampler: BaseSampler) -> None:
        super().__init__(
            scramble=True, seed=seed, independent_sampler=independent_sampler, warn_independent_sampling=False
        )
        self._index = index

    def _find_sample_id(self, study: optuna.Study, search_space: dict[str, BaseDistribution]) -> int:
        return self._index


def derived_seed(seed: int, number: int) -> int:
    """Seed of one trial: the first 32 bits of sha256("seed/number")."""
    return int.from_bytes(sha256(f"{seed}/{number}".encode()).digest()[:4], "big")


def _tpe(seed: int, number: int) -> BaseSampler:
    return _OneSplit(seed=derived_seed(seed, number), n_startup_trials=STARTUP_TRIALS)


def _gp(seed: int, number: int) -> BaseSampler:
    return GPSampler(
        seed=derived_seed(seed, number), n_startup_trials=STARTUP_TRIALS, warn_independent_sampling=False
    )


def _nsga2(seed: int, number: int) -> BaseSampler:
    return NSGAIISampler(seed=derived_seed(seed, number), population_size=POPULATION)


def _nsga3(seed: int, number: int) -> BaseSampler:
    return NSGAIIISampler(seed=derived_seed(seed, number), population_size=POPULATION)


def _qmc(seed: int, number: int) -> BaseSampler:
    return _Sobol(seed, number, _random(seed, number))


def _random(seed: int, number: int) -> BaseSampler:
    return RandomSampler(seed=derived_seed(seed, number))


SAMPLERS: Mapping[str, Callable[[int, int], BaseSampler]] = MappingProxyType(
    {"tpe": _tpe, "gp": _gp, "nsga2": _nsga2, "nsga3": _nsga3, "qmc": _qmc, "random": _random}
)
# those that model each key by itself; the others want points of one family, which all have the same keys
CONDITIONAL = frozenset({"tpe", "random"})
GENETIC = frozenset({"nsga2", "nsga3"})


def sampler_for(kind: str, seed: int, number: int) -> BaseSampler:
    """Return a fresh sampler for one trial, so that a resumed search goes on as if nothing had happened.

    Args:
        kind: a name of `SAMPLERS`.
        seed: the search's.
        number: the trial's place among the trials of the search.

    Raises:
        ConfigError: no sampler has this name.
    """
    if kind not in SAMPLERS:
        raise ConfigError(f"got {kind!r}; {suggest(kind, SAMPLERS)}", key="search.sampler")
    with warnings.catch_warnings():  # NSGA-III and QMC are marked experimental since 3.x, unchanged in 5
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return SAMPLERS[kind](seed, number)
