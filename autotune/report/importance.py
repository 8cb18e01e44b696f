"""Which searched keys matter: permutation importance on the trials, family by family.

A key of one family has no value in another, so each family is looked at by itself.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autotune.report.sources import Search
from autotune.search.trial_row import TrialRow

Floats = NDArray[np.float64]
MIN_TRIALS = 10  # of a family; below it nothing is said
TREES, REPEATS, SEED = 60, 10, 0


@dataclass(frozen=True, slots=True)
class Importance:
    """How much the keys of a family tell about an objective.

    Attributes:
        family: of the search space.
        objective: what is explained.
        trials: it rests on.
        explained: share of the variance that trees explain on trials that they did not see (R² out of bag).
        shares: key -> its share of the importance of all keys, largest first.
    """

    family: str
    objective: str
    trials: int
    explained: float
    shares: dict[str, float]


def importances(search: Search) -> list[Importance]:
    """Return the importances of every family with enough trials."""
    found = []
    for family in dict.fromkeys(row.family for row in search.rows):
        rows = [row for row in search.rows if row.family == family]
        for objective in search.objectives:
            usable = [row for row in rows if objective in row.scalars]
            if len(usable) >= MIN_TRIALS:
                one = _importance(family, objective, usable)
                found += [] if one is None else [one]
    return found


def _importance(family: str, objective: str, rows: Sequence[TrialRow]) -> Importance | None:
    from sklearn.ensemble import RandomForestRegressor

    keys = [key for key in rows[0].params if all(key in row.params for row in rows)]
    x = np.array([[_coded(row.params[key]) for key in keys] for row in rows], dtype=object)
    coded = np.column_stack([_numbers(column) for column in x.T]) if keys else np.zeros((len(rows), 0))
    y = np.array([row.scalars[objective] for row in rows])
    if not keys or np.ptp(y) == 0:
        return None
    y = np.log(y) if y.min() > 0 else y
    forest = RandomForestRegressor(TREES, oob_score=True, random_state=SEED, min_samples_leaf=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # too few trees for a trial to be left out by one
        forest.fit(coded, y)
    raw = _permuted(forest, coded, y)
    total = float(raw.sum()) or 1.0
    shares = sorted(zip(keys, raw / total, strict=True), key=lambda pair: -pair[1])
    return Importance(
        family, objective, len(rows), float(forest.oob_score_), {k: float(v) for k, v in shares}
    )


def _permuted(forest: Any, x: Floats, y: Floats) -> Floats:
    """How much the squared error grows when one key's values are shuffled, [keys]; one prediction for all.

    Shapes: [trials, keys], [trials].
    """
    rng = np.random.default_rng(SEED)
    shuffled = np.repeat(x[None], x.shape[1] * REPEATS, axis=0).reshape(x.shape[1], REPEATS, *x.shape)
    for key in range(x.shape[1]):
        for repeat in range(REPEATS):
            rng.shuffle(shuffled[key, repeat, :, key])
    predicted = forest.predict(shuffled.reshape(-1, x.shape[1])).reshape(x.shape[1], REPEATS, -1)
    errors = ((predicted - y) ** 2).mean((1, 2))
    found: Floats = np.maximum(errors - ((forest.predict(x) - y) ** 2).mean(), 0.0)
    return found


def _coded(value: object) -> object:
    return float(value) if isinstance(value, int | float) else json.dumps(value, sort_keys=True)


def _numbers(column: NDArray[Any]) -> Floats:
    """Numbers as they are; choices by their place among those that were tried."""
    if all(isinstance(value, float) for value in column):
        return column.astype(np.float64)
    places = {value: i for i, value in enumerate(sorted(map(str, set(column))))}
    return np.array([places[str(value)] for value in column], dtype=np.float64)
