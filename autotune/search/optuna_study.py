"""Optuna's study: SQLite in WAL mode, a sampler seeded per trial, and what a crash left behind."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import TrialState

from autotune.search.objective import METRIC_NAMES

STARTUP_TRIALS = 12  # random points before the sampler models anything
STUDY = "autotune"


def open_study(folder: Path, objectives: tuple[str, ...]) -> optuna.Study:
    """Open or create the folder's study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{folder / 'study.db'}", engine_kwargs={"connect_args": {"timeout": 60}}
    )
    sqlalchemy.event.listen(storage.engine, "connect", _write_ahead)
    with storage.engine.connect() as connection:
        _write_ahead(connection.connection.dbapi_connection, None)
    directions = [
        StudyDirection.MAXIMIZE if METRIC_NAMES[name] else StudyDirection.MINIMIZE for name in objectives
    ]
    study = optuna.create_study(storage=storage, study_name=STUDY, directions=directions, load_if_exists=True)
    with warnings.catch_warnings():  # marked experimental since 3.2, unchanged in 5
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(objectives))
    return study


def _write_ahead(connection: Any, _: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def sampler_for(kind: str, seed: int, number: int) -> BaseSampler:
    """Return a fresh sampler for one trial, so that a resumed search does not repeat its random points."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    derived = int.from_bytes(digest[:4], "big")
    if kind == "random":
        return RandomSampler(seed=derived)
    return TPESampler(seed=derived, n_startup_trials=STARTUP_TRIALS)


def recover(study: optuna.Study) -> int:
    """Close trials that a dead driver left running and queue their points again; return how many."""
    left = [t for t in study.get_trials(deepcopy=False) if t.state == TrialState.RUNNING]
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
        point = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if point:
            study.enqueue_trial(point, user_attrs={"retry_of": trial.number})
    return len(left)


def tell(
    study: optuna.Study,
    trial: optuna.Trial,
    values: list[float],
    violations: Mapping[str, float],
    attributes: Mapping[str, Any],
) -> None:
    """Tell a measured trial, constraints first; every trial carries the same ones in the same order."""
    for name in sorted(violations):
        trial.set_constraint(name, float(violations[name]))
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    study.tell(trial, [float(value) for value in values])


def counts(study: optuna.Study) -> dict[str, int]:
    """Number of trials by state, as in `summary.json`."""
    states = [t.state for t in study.get_trials(deepcopy=False)]
    return {
        "complete": states.count(TrialState.COMPLETE),
        "pruned": states.count(TrialState.PRUNED),
        "failed": states.count(TrialState.FAIL),
    }
