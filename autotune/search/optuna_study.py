"""Optuna's study: opened, told, counted, and cleared of what a crash left behind."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotune.search.objective import METRIC_NAMES

STUDY = "autotune"  # in a folder's own storage
RETRY_OF, ATTEMPT = "retry_of", "attempt"  # user attributes: the trial that is tried again; how often so far


def open_study(storage: RDBStorage, objectives: Sequence[str], name: str = STUDY) -> optuna.Study:
    """Open or create a study; `objectives` are in the order of their values."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = [
        StudyDirection.MAXIMIZE if METRIC_NAMES[name] else StudyDirection.MINIMIZE for name in objectives
    ]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    with warnings.catch_warnings():  # marked experimental since 3.2, unchanged in 5
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    return study


def recover(study: optuna.Study) -> int:
    """Close trials that a dead driver left running and queue their points again; return how many.

    The new trial carries the user attributes of the old one, `retry_of` (its number) and `attempt` (2 for
    the first retry). It is queued before the old one is closed: a crash in between loses nothing.
    """
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    left = [trial for trial in trials if trial.state == TrialState.RUNNING]
    for trial in left:
        point = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if point and trial.number not in again:
            attempt = int(trial.user_attrs.get(ATTEMPT, 1)) + 1
            attributes = {**trial.user_attrs, RETRY_OF: trial.number, ATTEMPT: attempt}
            study.enqueue_trial(point, user_attrs=attributes)
        study.tell(trial.number, state=TrialState.FAIL)
    return len(left)


def tell(
    study: optuna.Study,
    trial: optuna.Trial,
    values: list[float],
    violations: Mapping[str, float],
    attributes: Mapping[str, Any],
) -> None:
    """Tell a measured trial, constraints first; every trial carries the same ones in the same order."""
    told = trial.constraints  # a crash may have come between these and the values
    for name in sorted(violations.keys() - told.keys()):
        trial.set_constraint(name, float(violations[name]))
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    study.tell(trial, [float(value) for value in values])


def counts(study: optuna.Study) -> dict[str, int]:
    """Number of points by what became of them, as in `summary.json`.

    An attempt that was tried again counts by its last try, not as a failure.
    """
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(RETRY_OF) for trial in trials}
    states = [trial.state for trial in trials if trial.number not in again]
    return {
        "complete": states.count(TrialState.COMPLETE),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
    }
