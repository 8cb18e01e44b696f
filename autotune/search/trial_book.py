"""TrialBook: the trials of one search, durable in Optuna's study and mirrored for the sampler."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.search.experiment import Experiment
from autotune.search.mirror import Mirror
from autotune.search.objective import violations
from autotune.search.optuna_study import ATTEMPT, RETRY_OF, counts, tell
from autotune.search.space import SearchSpace
from autotune.search.storage import StudyLostError
from autotune.search.trial_row import TrialRow


class TrialBook:
    """Asks and tells; one driver, one book.

    Queued points come first, in the order they were first queued. What is told is in the study before it
    is in the mirror. The study is read once, when the book is made: after that only the book writes to it,
    and reading hundreds of open trials before each ask would cost more than the sampler.

    Args:
        study: the study on the disk, recovered.
        space: what is searched.
        sampler: a name of `SAMPLERS`.
        seed: the search's.
        check: called before each ask; raises when the study is no longer ours, and is true when it was not
            for a moment.
    """

    def __init__(
        self,
        study: optuna.Study,
        space: SearchSpace,
        sampler: str,
        seed: int,
        check: Callable[[], bool] = lambda: False,
    ) -> None:
        self._study, self._space, self._check = study, space, check
        self._mirror = Mirror(space, study.directions, sampler, seed)
        trials = study.get_trials(deepcopy=False)
        self._places = places(trials)
        self._next_place = len(set(self._places.values()))
        self._attempts = {trial.number: int(trial.user_attrs.get(ATTEMPT, 1)) for trial in trials}
        self._sources = {str(trial.user_attrs.get("source")) for trial in trials}
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        waiting.sort(key=lambda trial: self._places[trial.number])
        self._waiting = deque((trial.number, trial._trial_id) for trial in waiting)
        self._counts = counts(study)
        self._remember(trials)

    @property
    def counts(self) -> dict[str, int]:
        """Number of points by what became of them, as in `summary.json`."""
        return dict(self._counts)

    @property
    def told(self) -> int:
        """Points told COMPLETE or PRUNED."""
        return self._counts["complete"] + self._counts["pruned"]

    @property
    def asked(self) -> int:
        """Points asked for or queued so far, each once however often it was tried."""
        return self._next_place

    @property
    def fresh(self) -> bool:
        """Whether the next point comes from the sampler: none is queued."""
        return not self._waiting

    def attempt(self, number: int) -> int:
        """Which attempt at its point a trial is, from 1."""
        return self._attempts[number]

    def queued(self, source: str) -> bool:
        """Whether points of this source were ever queued."""
        return source in self._sources

    def queue(self, family: str, params: Mapping[str, Any], attributes: Mapping[str, Any]) -> None:
        """Queue a point, with user attributes of its trial."""
        template = create_trial(
            state=TrialState.WAITING,
            system_attrs={"fixed_params": self._space.encode(family, params)},
            user_attrs=dict(attributes),
        )
        self._waiting.append(self._enter(template))
        self._sources.add(str(attributes.get("source")))

    def ask(self) -> tuple[optuna.Trial, str, dict[str, Any]]:
        """Return the next trial, its family and its params.

        Raises:
            StudyLostError: another driver has the study.
        """
        if self._check() and len(self._study.get_trials(deepcopy=False)) != len(self._places):
            raise StudyLostError("another search has written to the study meanwhile; resume this one")
        if self._waiting:
            number, trial_id = self._waiting.popleft()
            self._study._storage.set_trial_state_values(trial_id, state=TrialState.RUNNING)
            trial = optuna.Trial(self._study, trial_id)
            family, params = self._space.sample(trial)
            self._mirror.enter(self._places[number], trial.params)
            return trial, family, params
        draft = self._mirror.propose(self._next_place)
        template = create_trial(
            state=TrialState.RUNNING, params=draft.params, distributions=draft.distributions
        )
        trial = optuna.Trial(self._study, self._enter(template)[1])
        return (trial, *self._space.sample(trial))

    def _enter(self, template: FrozenTrial) -> tuple[int, int]:
        """Write a new trial, in one transaction; return its number and its key in the storage."""
        storage = self._study._storage
        trial_id = storage.create_new_trial(self._study._study_id, template)
        number = storage.get_trial_number_from_id(trial_id)
        self._places[number] = self._next_place
        self._attempts[number] = 1
        self._next_place += 1
        return number, trial_id

    def tell(
        self,
        trial: optuna.Trial,
        values: Sequence[float],
        violations: Mapping[str, float],
        attributes: Mapping[str, Any],
    ) -> None:
        """Tell a measured trial."""
        tell(self._study, trial, list(values), violations, attributes)
        self._note(trial, TrialState.COMPLETE, values, violations)

    def close(self, trial: optuna.Trial, state: TrialState, attributes: Mapping[str, Any]) -> None:
        """Tell a trial without values: FAIL, or PRUNED."""
        for name, value in attributes.items():
            trial.set_user_attr(name, value)
        self._study.tell(trial, state=state)
        self._note(trial, state, None, {})

    def _note(
        self,
        trial: optuna.Trial,
        state: TrialState,
        values: Sequence[float] | None,
        violations: Mapping[str, float],
    ) -> None:
        name = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned"}.get(state, "failed")
        self._counts[name] += 1
        self._mirror.tell(self._places[trial.number], state, values, violations)

    def _remember(self, trials: Sequence[FrozenTrial]) -> None:
        """Tell the mirror what earlier drivers asked and told."""
        last = {self._places[trial.number]: trial for trial in trials}  # the last attempt of each point
        for place, trial in sorted(last.items()):
            if trial.state == TrialState.WAITING or not trial.params:
                continue
            self._mirror.enter(place, trial.params)
            if trial.state.is_finished():
                self._mirror.tell(place, trial.state, trial.values, trial.constraints)


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
