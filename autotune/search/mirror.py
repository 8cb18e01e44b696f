"""The told trials in memory, in the order they were first asked: the only thing that samplers read.

A proposal is then a function of the seed, the place in the search and the results before it. The study on
the disk also holds attempts that died with a driver; here a point that was tried twice is one trial.
It also makes asking cheap: nothing is read from a database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotune.search.samplers import CONDITIONAL, GENETIC, sampler_for
from autotune.search.space import FAMILY, SearchSpace

ALL = ""  # stands for the trials of all families


class Mirror:
    """Studies in memory that samplers are asked on.

    A sampler that models all keys together gets a study per family, whose points have the same keys; the
    family itself is then chosen by TPE, or at random by samplers that learn nothing.

    Args:
        space: what is searched.
        directions: of the objectives.
        sampler: a name of `SAMPLERS`.
        seed: the search's.
    """

    def __init__(
        self, space: SearchSpace, directions: Sequence[StudyDirection], sampler: str, seed: int
    ) -> None:
        self._space, self._directions = space, list(directions)
        self._kind, self._seed = sampler, seed
        self._studies: dict[str, optuna.Study] = {}
        self._apart = sampler not in CONDITIONAL and len(space.families) > 1
        self._chooser = "random" if sampler == "qmc" else "tpe"
        self._drafts: dict[int, list[optuna.Trial]] = {}

    def propose(self, number: int) -> optuna.trial.FrozenTrial:
        """Ask the sampler for a point.

        Args:
            number: its place in the search; `tell` takes it.
        """
        if not self._apart:
            drafts = [self._draft(ALL, number, {})]
        else:
            choice = self._choice(number, {})
            family = choice.params[FAMILY]
            drafts = [choice, self._draft(family, number, {FAMILY: family})]
        self._drafts[number] = drafts
        trial = drafts[-1]
        return trial.study.get_trials(deepcopy=False)[trial.number]

    def enter(self, number: int, params: Mapping[str, Any]) -> None:
        """Take note of a point that came from the queue."""
        if self._apart:
            family = params[FAMILY]
            self._drafts[number] = [
                self._choice(number, {FAMILY: family}),
                self._draft(family, number, params),
            ]
        else:
            self._drafts[number] = [self._draft(ALL, number, params)]

    def tell(
        self,
        number: int,
        state: TrialState,
        values: Sequence[float] | None = None,
        violations: Mapping[str, float] | None = None,
    ) -> None:
        """Tell what came of a point; one that was never entered is passed over."""
        for draft in self._drafts.pop(number, ()):
            for name, value in sorted((violations or {}).items()):
                draft.set_constraint(name, float(value))
            draft.study.tell(draft, None if values is None else [float(v) for v in values], state=state)

    def _draft(self, family: str, number: int, params: Mapping[str, Any]) -> optuna.Trial:
        study = self._study(family)
        index = len(study.get_trials(deepcopy=False)) if self._kind == "qmc" else number
        study.sampler = sampler_for(self._kind, self._seed, index)
        if params:
            study.enqueue_trial(dict(params))
        trial = study.ask()
        if self._kind in GENETIC:
            _ = trial.relative_params  # places queued points in a generation, too
        self._space.sample(trial)
        return trial

    def _choice(self, number: int, params: Mapping[str, Any]) -> optuna.Trial:
        study = self._study(ALL)
        study.sampler = sampler_for(self._chooser, self._seed, number)
        if params:
            study.enqueue_trial(dict(params))
        trial = study.ask()
        trial.suggest_categorical(FAMILY, list(self._space.families))
        return trial

    def _study(self, family: str) -> optuna.Study:
        if family not in self._studies:
            self._studies[family] = optuna.create_study(directions=self._directions)
        return self._studies[family]
