"""The search loop: ask, evaluate, keep, tell. One driver; what is told was written to the disk before."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import optuna
from optuna.trial import TrialState

from autotune.scoring.case import Case
from autotune.scoring.measurement import Measurement
from autotune.scoring.profile import Profile
from autotune.search.dispatch import Dispatcher, RunBrokenError, last_line
from autotune.search.executor import TaskResult
from autotune.search.experiment import Experiment
from autotune.search.objective import METRIC_NAMES, violations
from autotune.search.optuna_study import counts, sampler_for, tell
from autotune.search.pareto import front, hypervolume
from autotune.search.schedules import Scheduler
from autotune.search.scorer import Scorer
from autotune.search.space import SearchSpace
from autotune.search.store import RunFolder, TrialRow
from autotune.search.tracker import Tracker
from xslim.policy.policy import Pattern, Policy

log = logging.getLogger(__name__)
FAILURES_IN_A_ROW = 3
# the worst value of each objective, minimised, for the hypervolume; fixed so that searches compare
HYPERVOLUME_REFERENCE = {
    "latency": 1.0,
    "compute_fraction": 1.0,
    "lpips": 0.25,
    "psnr": -15.0,
    "ssim": -0.5,
    "fid": 100.0,
    "kid": 1.0,
    "memory": 2.0**40,
}


@dataclass
class SearchLoop:
    """One search over a folder, an executor and a study.

    Attributes:
        rows: everything measured so far, this run's and earlier ones'.
    """

    experiment: Experiment
    space: SearchSpace
    folder: RunFolder
    study: optuna.Study
    dispatcher: Dispatcher
    tracker: Tracker
    scorer: Scorer
    profile: Profile
    cases: tuple[Case, ...]
    stop: Callable[[], bool]
    on_progress: Callable[[int, float], None]

    def __post_init__(self) -> None:
        self.rows: list[TrialRow] = self.folder.rows()
        self.deduplicated = sum(row.duplicate_of is not None for row in self.rows)
        self.scheduler = Scheduler(self.profile)
        self._by_key = {effective_key(Policy.parse(row.policy)): row for row in self.rows}
        self._failures = 0
        self._waiting: dict[str, list[tuple[optuna.Trial, str, dict[str, Any]]]] = {}
        self._tell_untold()

    def run(self) -> None:
        """Search until the trials, the seconds or the user say stop; what is in flight is finished.

        Raises:
            RunBrokenError: three candidates in a row failed.
        """
        started = time.monotonic()
        limit = self.experiment.search.max_seconds
        while not self.stop() and self._told() < self.experiment.search.trials:
            if limit is not None and time.monotonic() - started > limit:
                break
            asked = self._told() + self.dispatcher.flying + sum(map(len, self._waiting.values()))
            while self.dispatcher.free and asked < self.experiment.search.trials and not self.stop():
                self._ask()
                asked += 1
            for tag, result in self.dispatcher.wait():
                self._take(tag, result)
        self.dispatcher.drain(self._take)

    def best(self) -> list[TrialRow]:
        """Rows on the feasible front, fastest first."""
        feasible = [row for row in self.rows if self._feasible(row)]
        kept = [feasible[i] for i in front([self.minimised(row) for row in feasible])]
        return sorted(kept, key=lambda row: self.minimised(row))

    def minimised(self, row: TrialRow) -> tuple[float, ...]:
        """A row's objectives, all to be minimised."""
        return tuple(
            -row.scalars[name] if METRIC_NAMES[name] else row.scalars[name]
            for name in self.experiment.objectives
        )

    def volume(self) -> float:
        """Hypervolume of the feasible front."""
        reference = [HYPERVOLUME_REFERENCE[name] for name in self.experiment.objectives]
        return hypervolume([self.minimised(row) for row in self.best()], reference)

    def _feasible(self, row: TrialRow) -> bool:
        return all(v <= 0 for v in violations(self.experiment.bounds, row.scalars).values())

    def _told(self) -> int:
        found = counts(self.study)
        return found["complete"] + found["pruned"]

    def _ask(self) -> None:
        number = len(self.study.get_trials(deepcopy=False))
        search = self.experiment.search
        self.study.sampler = sampler_for(search.sampler, search.seed, number)
        trial = self.study.ask()
        family, params = self.space.sample(trial)
        policy = self.space.policy(family, params, self.profile.calibration, self.scheduler)
        key = effective_key(policy)
        known = self._by_key.get(key)
        if known is not None:
            self._finish(trial, _copy_row(known, trial.number, family, params))
        elif key in self._waiting:
            self._waiting[key].append((trial, family, params))
        else:
            self._waiting[key] = []
            timed = frozenset(row.trace_sha256 for row in self.rows if "latency" in row.scalars)
            tag = (trial, family, params, policy, key)
            self.dispatcher.submit("evaluate", self.cases, tag, policy, search.timing_rounds, timed)

    def _take(self, tag: Any, result: TaskResult) -> None:
        trial, family, params, policy, key = tag
        waiting = self._waiting.pop(key, [])
        if not isinstance(result.value, Measurement):
            self._fail(trial, result)
            for other, *_ in waiting:
                self.study.tell(other, state=TrialState.FAIL)
            return
        self._failures = 0
        row = self._row(trial.number, family, params, policy, result.value)
        self._by_key[key] = row
        self._finish(trial, row)
        for other, other_family, other_params in waiting:
            self._finish(other, _copy_row(row, other.number, other_family, other_params))

    def _row(
        self, number: int, family: str, params: dict[str, Any], policy: Policy, measured: Measurement
    ) -> TrialRow:
        scalars = self.scorer.scalars(measured)
        trace = measured.quality.trace_sha256
        twin = None
        if "latency" not in scalars:  # the same work was timed before
            twin = next(row for row in self.rows if row.trace_sha256 == trace and "latency" in row.scalars)
            scalars |= {name: twin.scalars[name] for name in ("latency", "speedup")}
        return TrialRow(
            trial=number,
            family=family,
            params=params,
            policy=policy.to_data(),
            scalars=scalars,
            actions=measured.quality.actions,
            trace_sha256=trace,
            wall_s=measured.quality.wall_s,
        )

    def _finish(self, trial: optuna.Trial, row: TrialRow) -> None:
        """Write, then tell, then show."""
        self.folder.append(row)
        self.rows.append(row)
        self.deduplicated += row.duplicate_of is not None
        values = [row.scalars[name] for name in self.experiment.objectives]
        broken = violations(self.experiment.bounds, row.scalars)
        tell(self.study, trial, values, broken, {"actions": row.actions})
        tags = {"family": row.family, "actions": row.actions, "feasible": str(self._feasible(row)).lower()}
        self.tracker.trial(row.trial, row.params, row.scalars, tags)
        done, volume = self._told(), self.volume()
        self.tracker.progress(done, {"hypervolume": volume})
        self.on_progress(done, volume)

    def _fail(self, trial: optuna.Trial, result: TaskResult) -> None:
        trial.set_user_attr("error", (result.error or "")[-4000:])
        self.study.tell(trial, state=TrialState.FAIL)
        log.warning("trial %d failed: %s", trial.number, last_line(result.error))
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise RunBrokenError(f"{FAILURES_IN_A_ROW} trials in a row failed: {last_line(result.error)}")

    def _tell_untold(self) -> None:
        """Tell results that were written before a crash and never reached the study."""
        by_number = {t.number: t for t in self.study.get_trials(deepcopy=False)}
        for row in self.rows:
            trial = by_number.get(row.trial)
            if trial is not None and trial.state == TrialState.RUNNING:
                live = optuna.Trial(self.study, trial._trial_id)
                values = [row.scalars[name] for name in self.experiment.objectives]
                broken = violations(self.experiment.bounds, row.scalars)
                tell(self.study, live, values, broken, {"actions": row.actions})


def effective_key(policy: Policy) -> str:
    """Hash what a policy can do: parts that its actions never reach are left out."""
    data = policy.to_data()
    if isinstance(policy.controller, Pattern):
        data.pop("indicator", None)
        for letter, part in (("B", "block"), ("T", "token")):
            if letter not in policy.controller.steps:
                data.pop(part, None)
    return sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _copy_row(row: TrialRow, number: int, family: str, params: Mapping[str, Any]) -> TrialRow:
    origin = row.trial if row.duplicate_of is None else row.duplicate_of
    return TrialRow(
        trial=number,
        family=family,
        params=dict(params),
        policy=row.policy,
        scalars=row.scalars,
        actions=row.actions,
        trace_sha256=row.trace_sha256,
        duplicate_of=origin,
    )
