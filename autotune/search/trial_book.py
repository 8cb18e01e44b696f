"""TrialBook: the trials of one search, durable in Optuna's study and mirrored for the sampler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.search.experiment import Experiment
from autotune.search.mirror import Mirror
from autotune.search.objective import violations
from autotune.search.optuna_study import RETRY_OF, counts, tell
from autotune.search.space import SearchSpace
from autotune.search.store import TrialRow


class TrialBook:
    """Asks and tells; one driver, one book.

    Queued points come first, in the order they were first queued. What is told is in the study before it
    is in the mirror. The mirror is made at the first ask, from everything that the study holds then.

    Args:
        study: the study on the disk, recovered.
        space: what is searched.
        sampler: a name of `SAMPLERS`.
        seed: the search's.
        check: called before each ask; raises when the study is no longer ours.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        sampler: str,
        seed: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._study, self._space = study, space
        self._sampler, self._seed, self._check = sampler, seed, check
        self._mirror: Mirror | None = None
        self._places: dict[int, int] = {}
        self._counts: dict[str, int] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of points by what became of them, as in `summary.json`; read from the disk once."""
        if self._counts is None:
            self._counts = counts(self._study)
        return dict(self._counts)

    @property
    def told(self) -> int:
        """Points told COMPLETE or PRUNED."""
        found = self.counts
        return found["complete"] + found["pruned"]

    @property
    def asked(self) -> int:
        """Points asked for so far, each once however often it was tried."""
        return len(set(places(self._study.get_trials(deepcopy=False)).values()))

    @property
    def fresh(self) -> bool:
        """Whether the next point comes from the sampler: none is queued."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return not waiting

    def attempt(self, number: int) -> int:
        """Which attempt at its point a trial is, from 1."""
        trial = self._study.get_trials(deepcopy=False)[number]
        return int(trial.user_attrs.get("attempt", 1))

    def queued(self, source: str) -> bool:
        """Whether points of this source were ever queued."""
        return any(t.user_attrs.get("source") == source for t in self._study.get_trials(deepcopy=False))

    def queue(self, family: str, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        """Queue a point, with user attributes of its trial."""
        self._study.enqueue_trial(self._space.encode(family, params), user_attrs=dict(attributes))

    def ask(self) -> tuple[optuna.Trial, str, dict[str, Any]]:
        """Return the next trial, its family and its params.

        Raises:
            StudyLostError: another driver has the study.
        """
        self._check()
        trials = self._study.get_trials(deepcopy=False)
        self._places = places(trials)
        mirror = self._mirror or self._rebuild(trials)
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        if waiting:
            return self._claim(mirror, min(waiting, key=lambda t: self._places[t.number]))
        place = len(set(self._places.values()))
        draft = mirror.propose(place)
        template = create_trial(
            state=TrialState.RUNNING, params=draft.params, distributions=draft.distributions
        )
        storage, study_id = self._study._storage, self._study._study_id
        trial = optuna.Trial(self._study, storage.create_new_trial(study_id, template))  # one transaction
        self._places[trial.number] = place
        return (trial, *self._space.sample(trial))

    def tell(
        self,
        trial: optuna.Trial,
        values: Sequence[float],
        violations: Mapping[str, float],
        attributes: Mapping[str, Any],
    ) -> None:
        """Tell a measured trial."""
        before = self.counts
        tell(self._study, trial, list(values), violations, attributes)
        self._note(before, trial, TrialState.COMPLETE, values, violations)

    def close(self, trial: optuna.Trial, state: TrialState, attributes: Mapping[str, Any]) -> None:
        """Tell a trial without values: FAIL, or PRUNED."""
        before = self.counts
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, state=state)
        self._note(before, trial, state, None, {})

    def _note(
        self,
        before: dict[str, int],
        trial: optuna.Trial,
        state: TrialState,
        values: Sequence[float] | None,
        violations: Mapping[str, float],
    ) -> None:
        name = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(state, "failed")
        self._counts = {**before, name: before[name] + 1}
        if self._mirror is not None:
            self._mirror.tell(self._places[trial.number], state, values, violations)

    def _claim(self, mirror: Mirror, waiting: FrozenTrial) -> tuple[optuna.Trial, str, dict[str, Any]]:
        self._study._storage.set_trial_state_values(waiting._trial_id, state=TrialState.RUNNING)
        trial = optuna.Trial(self._study, waiting._trial_id)
        family, params = self._space.sample(trial)
        mirror.enter(self._places[trial.number], trial.params)
        return trial, family, params

    def _rebuild(self, trials: Sequence[FrozenTrial]) -> Mirror:
        mirror = Mirror(self._space, self._study.directions, self._sampler, self._seed)
        last = {self._places[trial.number]: trial for trial in trials}  # the last attempt of each point
        for place, trial in sorted(last.items()):
            if trial.state == TrialState.WAITING or not trial.params:
                continue
            mirror.enter(place, trial.params)
            if trial.state.is_finished():
                mirror.tell(place, trial.state, trial.values, trial.constraints)
        self._mirror = mirror
        return mirror


def places(trials: Sequence[FrozenTrial]) -> dict[int, int]:
    """Return each trial's place in the search: its number, where attempts at one point count once."""
    found: dict[int, int] = {}
    new = 0
    for trial in trials:
        origin = trial.user_attrs.get(RETRY_OF)
        if origin in found:
            found[trial.number] = found[origin]
        else:
            found[trial.number] = new
            new += 1
    return found


def tell_untold(study: optuna.Study, rows: Sequence[TrialRow], experiment: Experiment) -> None:
    """Tell results that were written before a crash and never reached the study."""
    by_number: Mapping[int, Any] = {t.number: t for t in study.get_trials(deepcopy=False)}
    for row in rows:
        trial = by_number.get(row.trial)
        if trial is not None and trial.state == TrialState.RUNNING:
            live = optuna.Trial(study, trial._trial_id)
            values = [row.scalars[name] for name in experiment.objectives]
            broken = violations(experiment.bounds, row.scalars)
            tell(study, live, values, broken, {"actions": row.actions, "cases": row.cases})
