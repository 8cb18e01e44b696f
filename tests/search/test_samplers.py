"""Samplers by name: the same seed gives the same proposals, also where a driver died in between."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import optuna
import pytest
from optuna.samplers import TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from autotune.search.experiment import Search
from autotune.search.optuna_study import ATTEMPT, RETRY_OF, recover
from autotune.search.samplers import GENETIC, POPULATION, SAMPLERS, STARTUP_TRIALS, derived_seed, sampler_for
from autotune.search.space import SearchSpace
from autotune.search.trial_book import TrialBook, places
from tests.search.support import SPACE
from xslim.errors import ConfigError

TWO_FAMILIES = SearchSpace.parse(SPACE)
QUEUED = 3
UNIT = {"type": "float", "low": 0.0, "high": 1.0}
ONE_FAMILY = SearchSpace.parse(
    {
        "base": {"controller": {"kind": "dual-threshold", "critical": 0.3}},
        "params": {"block.budget": {**UNIT, "low": 0.01}, "token.budget": {**UNIT, "low": 0.01}},
    }
)


# sampler -> space and trials; GP fits a model for every objective and bound at every ask
PLANS = dict.fromkeys(SAMPLERS, (TWO_FAMILIES, 2 * POPULATION + 8)) | {"gp": (ONE_FAMILY, STARTUP_TRIALS + 3)}


def objectives(family: str, params: Mapping[str, Any]) -> tuple[float, float]:
    """Two values of a point, both to be minimised; families differ."""
    number = sum(v for v in params.values() if isinstance(v, float | int))
    bent = sum(math.sin(3 * v) for v in params.values() if isinstance(v, float))
    return number + (family == "online"), 5 - number / 2 + bent


@dataclass
class Driver:
    """Asks and tells one after the other; dies in the middle of some trials.

    The storage in memory outlives it; `test_durability` kills real processes.
    """

    sampler: str
    space: SearchSpace = TWO_FAMILIES
    seed: int = 3
    storage: InMemoryStorage = field(default_factory=InMemoryStorage)

    def run(self, trials: int, dies_at: Collection[int] = (), queue: bool = True) -> list[dict[str, Any]]:
        """Return the points by their place in the search."""
        left = sorted(dies_at)
        while not self._live(trials, left.pop(0) if left else None, queue):
            pass
        found = self.study.get_trials(deepcopy=False)
        where = places(found)
        points = {where[trial.number]: trial.params for trial in found}
        return [points[place] for place in range(trials)]

    @property
    def study(self) -> optuna.Study:
        directions = ["minimize", "minimize"]
        return optuna.create_study(
            storage=self.storage, study_name="study", directions=directions, load_if_exists=True
        )

    def _live(self, trials: int, until: int | None, queue: bool) -> bool:
        study = self.study
        recover(study)
        if queue and not study.get_trials(deepcopy=False):
            for i in range(QUEUED):
                family, (key, *_) = min((name, [*f.params]) for name, f in self.space.families.items())
                study.enqueue_trial(self.space.encode(family, {key: 0.1 * (i + 1)}))
        book = TrialBook(study, self.space, self.sampler, self.seed)
        while book.told < trials:
            trial, family, params = book.ask()
            if book.told == until:
                return False
            first, second = objectives(family, params)
            book.tell(trial, [first, second], {"a": first - 2, "b": second - 8}, {})
        return True


def test_the_experiment_lists_the_samplers() -> None:
    assert set(get_args(Search.model_fields["sampler"].annotation)) == set(SAMPLERS)


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"got 'tpee'; did you mean 'tpe'\? Allowed: gp, nsga2, nsga3, qmc"):
        sampler_for("tpee", 0, 0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_that_died_proposes_what_it_would_have_proposed(sampler: str) -> None:
    space, trials = PLANS[sampler]
    whole = Driver(sampler, space).run(trials)
    # among the queued points, at the first random one, at the first modelled one, and once more
    broken = Driver(sampler, space)
    assert broken.run(trials, dies_at=(1, QUEUED, STARTUP_TRIALS, trials - 2)) == whole
    assert len({str(point) for point in whole[QUEUED:]}) > 0.8 * (trials - QUEUED)
    assert Driver(sampler, space, seed=4).run(trials)[QUEUED:] != whole[QUEUED:]
    if space is TWO_FAMILIES:
        assert {point["family"] for point in whole[QUEUED:]} == {"online", "pattern"}


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3"])
def test_samplers_learn_the_bounds_of_every_family(sampler: str) -> None:
    def broken_at_the_end(kind: str) -> float:
        driver = Driver(kind)
        driver.run(6 * POPULATION, queue=False)
        last = driver.study.get_trials()[-2 * POPULATION :]
        return sum(max(0.0, value) for trial in last for value in trial.constraints.values())

    assert broken_at_the_end(sampler) < 0.5 * broken_at_the_end("random")


def test_tpe_proposes_what_optunas_own_proposes() -> None:
    """Ours ranks the trials once a proposal; bounds and running trials count."""
    driver = Driver("tpe")
    driver.run(30, dies_at=(5, 20))
    study = driver.study
    study.ask().suggest_categorical("family", list(TWO_FAMILIES.families))  # still running
    ours, plain = sampler_for("tpe", 3, 99), TPESampler(seed=derived_seed(3, 99), n_startup_trials=12)
    points = []
    for study.sampler in (ours, plain):
        trial = study.ask()
        points.append(TWO_FAMILIES.sample(trial))
        study.tell(trial, state=TrialState.FAIL)
    assert points[0] == points[1]


def test_gp_models_after_its_first_trials() -> None:
    gp, random = (Driver(kind, ONE_FAMILY).run(STARTUP_TRIALS + 2) for kind in ("gp", "random"))
    assert gp[:STARTUP_TRIALS] == random[:STARTUP_TRIALS]
    assert gp[STARTUP_TRIALS:] != random[STARTUP_TRIALS:]


def test_a_sobol_sequence_goes_on_where_it_stopped() -> None:
    points = Driver("qmc", ONE_FAMILY).run(33, dies_at=(5, 9), queue=False)[1:]  # the first is random
    for key in ("default/block.budget", "default/token.budget"):
        cells = [int((point[key] - 0.01) / 0.99 * 8) for point in points]
        assert all(3 <= cells.count(cell) <= 5 for cell in range(8)), "a Sobol sequence fills evenly"


@pytest.mark.parametrize("sampler", sorted(GENETIC))
def test_queued_points_are_in_the_first_population(sampler: str) -> None:
    """Optuna leaves queued trials out of every generation."""
    driver = Driver(sampler, ONE_FAMILY)
    study = driver.study
    best = {"default/block.budget": 0.01, "default/token.budget": 0.01}
    for _ in range(POPULATION):
        study.enqueue_trial(best)
    points = driver.run(POPULATION + 10, queue=False)[POPULATION:]
    kept = sum(value == 0.01 for point in points for value in point.values())
    assert kept >= len(points) / 2, "children of the queued points keep half of their values"


def test_a_point_is_tried_again_with_its_attributes() -> None:
    driver = Driver("tpe")
    book = TrialBook(driver.study, TWO_FAMILIES, "tpe", 0)
    trial, *_ = book.ask()
    trial.set_user_attr("source", "dp")
    for attempt in (2, 3):
        study = driver.study
        assert recover(study) == 1
        assert recover(study) == 0
        left, again = study.get_trials()[-2:]
        assert left.state == TrialState.FAIL
        assert again.user_attrs == {"source": "dp", RETRY_OF: left.number, ATTEMPT: attempt}
        book = TrialBook(study, TWO_FAMILIES, "tpe", 0)
        retried, *_ = book.ask()
        assert retried.params == trial.params
        assert book.counts == {"complete": 0, "pruned": 0, "failed": 0}
    book.close(retried, TrialState.FAIL, {"error": "died"})
    assert book.counts == {"complete": 0, "pruned": 0, "failed": 1}
    assert TrialBook(driver.study, TWO_FAMILIES, "tpe", 0).counts == book.counts


def test_a_crash_between_queueing_and_closing_queues_once(monkeypatch: Any) -> None:
    study = Driver("tpe").study
    TrialBook(study, TWO_FAMILIES, "tpe", 0).ask()

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(study, "tell", crash)
        with pytest.raises(KeyboardInterrupt):
            recover(study)
    assert recover(study) == 1
    assert [t.state.name for t in study.get_trials()] == ["FAIL", "WAITING"]


def test_a_crash_between_bounds_and_values_tells_once_more() -> None:
    study = Driver("tpe").study
    trial, *_ = TrialBook(study, TWO_FAMILIES, "tpe", 0).ask()
    trial.set_constraint("a", 1.0)
    book = TrialBook(study, TWO_FAMILIES, "tpe", 0)
    book.tell(trial, [1.0, 2.0], {"b": 2.0, "a": 1.0}, {})  # a warning of Optuna's would be an error here
    assert study.get_trials()[0].constraints == {"a": 1.0, "b": 2.0}
