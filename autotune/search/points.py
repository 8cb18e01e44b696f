"""Points of a search space that are worth a look: schedules over every budget, thresholds, given seeds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from autotune.scoring.sampling import REFERENCE
from autotune.search.error_model import WAVES, Weighting
from autotune.search.family import POLICY, SCHEDULER, Family
from autotune.search.ranges import Choice, FloatRange, IntRange
from autotune.search.space import SearchSpace

Point = tuple[str, dict[str, Any]]
FULL, CRITICAL = "schedule.full_steps", "quantile.critical"
BUDGETS = 20  # computed steps, or quantiles, that are looked at in a range
REFRESHES = (2, 4)  # refreshes that take the place of half as many computed steps


def seeds(space: SearchSpace, reference: int) -> Iterator[Point]:
    """The points that the space itself names.

    Keys left out are at the middle of their range, those of the request as in the reference configuration.

    Args:
        space: the space.
        reference: denoising steps of the reference configuration.
    """
    for name, family in space.families.items():
        usual = family.at(REFERENCE, reference) or family
        for seed in family.seeds:
            yield name, {**usual.middle(), **seed}


def schedulers(space: SearchSpace, points: Sequence[Point]) -> Iterator[Point]:
    """One of some points for each scheduler but the pipeline's own, where a family searches them."""
    for name, family in space.families.items():
        own = [params for of, params in points if of == name]
        for choice in _choices(family, SCHEDULER):
            if own and family.sampling({SCHEDULER: choice}).scheduler is not None:
                yield name, {**own[len(own) // 2], SCHEDULER: choice}


def budgets(space: SearchSpace) -> Iterator[Point]:
    """Schedules and thresholds over every budget, with every predictor, as the profile weighs the steps.

    Schedules come as the error model wants them, as sums of gaps (DPCache), as least worst gaps (LeMiCa),
    and with refreshes in place of computed steps, and evenly spread; as far as the space searches these keys.
    Whole policies come as they are.
    """
    yield from variants(space, [Weighting()])
    for name, family in space.families.items():
        if FULL in family.params:
            yield from _classics(name, family)
        if CRITICAL in family.params:
            yield from _thresholds(name, family)
        if POLICY in family.params:
            yield from ((name, {POLICY: policy}) for policy in _choices(family, POLICY))


def variants(space: SearchSpace, weightings: Sequence[Weighting]) -> Iterator[Point]:
    """Schedules over every budget, with every predictor and some weightings of the steps."""
    for name, family in space.families.items():
        if FULL not in family.params:
            continue
        for weighting in weightings:
            for base in _with_predictors(_plain(family)):
                for full in _whole(family.params[FULL]):
                    yield name, _clipped(family, {**base, FULL: full, **_weighting(weighting)})


def _classics(name: str, family: Family) -> Iterator[Point]:
    plain = Weighting(coherence=0.0)
    for base in _with_predictors(_plain(family)):
        for full in _whole(family.params[FULL])[::2]:
            point = {**base, FULL: full}
            for rule in _choices(family, "schedule.rule"):
                yield name, _clipped(family, {**point, **_weighting(plain), "schedule.rule": rule})
        for full in _whole(family.params[FULL])[1::6]:
            for refreshes in REFRESHES:
                fewer = {FULL: full - refreshes // 2, "schedule.refreshes": refreshes}
                for polish in _choices(family, "schedule.polish"):
                    traded = {**base, **_weighting(Weighting()), **fewer, "schedule.polish": polish}
                    yield name, _clipped(family, traded)


def _thresholds(name: str, family: Family) -> Iterator[Point]:
    searched = family.params[CRITICAL]
    if not isinstance(searched, FloatRange):
        return
    given = list(family.seeds) or [{}]
    for seed in given:
        for base in _with_predictors((family, {**family.middle(), **seed})):
            for quantile in np.linspace(searched.low, searched.high, BUDGETS // 2):
                yield name, _clipped(family, {**base, CRITICAL: round(float(quantile), 4)})


def _plain(family: Family) -> tuple[Family, dict[str, Any]]:
    """The middle of a family without refreshes."""
    return family, {**family.middle(), "schedule.refreshes": 0}


def _with_predictors(start: tuple[Family, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    family, base = start
    for predictor in _choices(family, "predictor"):
        yield base if predictor is None else {**base, "predictor": predictor}


def _choices(family: Family, key: str) -> Sequence[Any]:
    searched = family.params.get(key)
    return searched.choices if isinstance(searched, Choice) else (None,)


def _whole(searched: object) -> list[int]:
    """Up to `BUDGETS` whole numbers over a range, denser at its low end."""
    if not isinstance(searched, IntRange):
        return []
    if searched.high - searched.low < BUDGETS:
        return list(range(searched.low, searched.high + 1))
    return sorted({round(float(v)) for v in np.geomspace(max(1, searched.low), searched.high, BUDGETS)})


def _weighting(weighting: Weighting) -> dict[str, float]:
    waves = (*weighting.waves, *[0.0] * WAVES)[:WAVES]
    return {
        "schedule.tilt": weighting.tilt,
        "schedule.bend": weighting.bend,
        "schedule.coherence": weighting.coherence,
        **{f"schedule.wave_{order}": wave for order, wave in enumerate(waves, 3)},
    }


def _clipped(family: Family, params: dict[str, Any]) -> dict[str, Any]:
    """Only the keys that the family searches, inside their ranges: what Optuna will hold of the point."""
    found = {}
    for key, searched in family.params.items():
        value = params[key]
        found[key] = value if isinstance(searched, Choice) else min(max(value, searched.low), searched.high)
    return found
