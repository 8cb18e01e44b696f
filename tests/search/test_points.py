"""Points worth a look: inside the space, over every budget, each key as the family searches it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import optuna
import pytest

from autotune.search.error_model import Weighting
from autotune.search.points import BUDGETS, CRITICAL, FULL, Point, budgets, seeds, variants
from autotune.search.ranges import Choice
from autotune.search.space import SearchSpace
from tests.search.support import SPACE, merged

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "search_spaces").glob("*.yaml"))
STEPS = 50
SHIPPED = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def check(space: SearchSpace, points: list[Point]) -> None:
    """Optuna gives back what a point was enqueued as, so it holds every key and stays in every range."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for family, params in points:
        assert params.keys() == space.families[family].params.keys()
        study.enqueue_trial(space.encode(family, params))
        assert space.sample(study.ask()) == (family, params)


@SHIPPED
def test_every_point_is_one_of_the_space(path: Path) -> None:
    space = SearchSpace.load(path)
    everything = [*seeds(space, STEPS), *budgets(space)]
    check(space, everything[:: max(1, len(everything) // 60)])
    for family, params in everything:
        for key, searched in space.families[family].params.items():
            if isinstance(searched, Choice):
                assert params[key] in searched.choices
            else:
                assert searched.low <= params[key] <= searched.high


@SHIPPED
def test_every_family_predictor_and_budget_is_looked_at(path: Path) -> None:
    space = SearchSpace.load(path)
    points = [*seeds(space, STEPS), *budgets(space)]
    assert {family for family, _ in points} == set(space.families)
    for name, family in space.families.items():
        mine = [params for of, params in points if of == name]
        for key, searched in family.params.items():
            values = [params[key] for params in mine]
            if key in (FULL, CRITICAL):
                assert min(values) == searched.low
                assert max(values) == searched.high
                assert len(set(values)) >= min(10, BUDGETS // 2)
            if key == "predictor" and (FULL in family.params or CRITICAL in family.params):
                assert all(choice in values for choice in searched.choices)


def test_seeds_are_the_middle_with_what_they_name() -> None:
    space = SearchSpace.parse(SPACE)
    ((family, params),) = seeds(space, STEPS)
    assert family == "online"
    middle = space.families["online"].middle()
    assert params == {**middle, "controller.critical": 0.2}
    assert params != middle


def full_space() -> SearchSpace:
    """Of a pattern family that searches how steps weigh, too."""
    added = {
        f"families.pattern.params.schedule.{key}".replace("params.schedule.", "params|schedule."): value
        for key, value in {
            "tilt": {"type": "float", "low": -1.0, "high": 1.0},
            "coherence": {"type": "float", "low": 0.0, "high": 0.9},
            "rule": {"type": "categorical", "choices": ["sum", "max"]},
        }.items()
    }
    data = merged(SPACE, {})
    for key, value in added.items():
        data["families"]["pattern"]["params"][key.split("|")[1]] = value
    return SearchSpace.parse(data)


def test_schedules_come_by_sum_by_worst_gap_and_with_refreshes() -> None:
    points = [params for family, params in budgets(full_space()) if family == "pattern"]
    kinds = {(p["schedule.coherence"] > 0, p["schedule.rule"], p["schedule.refreshes"] > 0) for p in points}
    assert kinds == {(True, "sum", False), (False, "sum", False), (False, "max", False), (True, "sum", True)}
    polished = {p["schedule.polish"] for p in points if p["schedule.refreshes"]}
    assert polished == {"T", "BT"}
    check(full_space(), list(budgets(full_space())))


def test_variants_weigh_as_asked_and_stay_in_range() -> None:
    space = full_space()
    weightings = [Weighting(0.5, 0.0, 0.5), Weighting(-3.0, 2.0, 0.99)]
    points = list(variants(space, weightings))
    full, predictors = range(2, 11), 2
    assert len(points) == len(full) * predictors * len(weightings)
    assert {family for family, _ in points} == {"pattern"}
    weights = {(p["schedule.tilt"], p["schedule.coherence"]) for _, p in points}
    assert weights == {(0.5, 0.5), (-1.0, 0.9)}
    assert all("schedule.bend" not in params for _, params in points), "the family does not search it"
    assert {p["schedule.refreshes"] for _, p in points} == {0}
    check(space, points)


def test_waves_reach_a_space_that_searches_them() -> None:
    data = merged(SPACE, {})
    wave = {"type": "float", "low": -1.0, "high": 1.0}
    data["families"]["pattern"]["params"] |= {"schedule.wave_3": wave, "schedule.wave_8": wave}
    waved = Weighting(waves=(0.5, 9.0, 0.0, 0.0, 0.0, -7.0))
    points = list(variants(SearchSpace.parse(data), [waved, Weighting()]))
    found = {(p["schedule.wave_3"], p["schedule.wave_8"]) for _, p in points}
    assert found == {(0.5, -1.0), (0.0, 0.0)}
    assert not any("schedule.wave_4" in params for _, params in points)


def test_a_wide_range_is_thinned() -> None:
    data = merged(SPACE, {})
    data["families"]["pattern"]["params"][FULL] = {"type": "int", "low": 2, "high": 500}
    counts = sorted({p[FULL] for _, p in variants(SearchSpace.parse(data), [Weighting()])})
    assert (counts[0], counts[-1]) == (2, 500)
    assert BUDGETS // 2 < len(counts) <= BUDGETS
    ratios = [b / a for a, b in pairwise(counts[3:])]
    assert max(ratios) < 1.6, "evenly on a logarithmic scale"


def test_thresholds_are_looked_at_around_every_seed() -> None:
    data = merged(SPACE, {})
    online = data["families"]["online"]
    online["params"][CRITICAL] = {"type": "float", "low": 0.1, "high": 0.9}
    del online["params"]["controller.critical"]
    online["seeds"] = [{"controller.polish": []}, {"controller.polish": ["block", "token"]}]
    points = [p for family, p in budgets(SearchSpace.parse(data)) if family == "online"]
    assert len(points) == 2 * (BUDGETS // 2)
    for polish in ([], ["block", "token"]):
        found = [p[CRITICAL] for p in points if p["controller.polish"] == polish]
        assert found == sorted(found)
        assert (found[0], found[-1]) == (0.1, 0.9)
    online["seeds"] = []
    alone = [p for family, p in budgets(SearchSpace.parse(data)) if family == "online"]
    assert len(alone) == BUDGETS // 2
