"""One search from start to end: profile, search, certify, export. What the `search` verb runs."""

from __future__ import annotations

import json
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from autotune.scoring.case import Case, make_cases
from autotune.scoring.evaluator import EvaluatorSpec
from autotune.scoring.measurement import Measurement
from autotune.scoring.pipeline import Memory, ModelSpec, check_model_folder
from autotune.scoring.profile import Profile
from autotune.scoring.reference import stored
from autotune.search.certify import candidates, certify
from autotune.search.dispatch import Dispatcher
from autotune.search.executor import EvaluatorFactory, Executor
from autotune.search.experiment import Experiment
from autotune.search.export import export, summary, write_summary
from autotune.search.floors import uncached_floors
from autotune.search.model import NOT_OF_THE_SPEC
from autotune.search.optuna_study import counts, open_study, recover
from autotune.search.plot import pareto_png
from autotune.search.profiling import Profiling
from autotune.search.schedules import Scheduler
from autotune.search.scorer import Scorer, check_measured, reference_sets
from autotune.search.space import SearchSpace
from autotune.search.store import RunFolder, TrialRow
from autotune.search.study import SearchLoop
from autotune.search.tracker import Tracker
from autotune.search.warm_starts import warm_starts

log = logging.getLogger(__name__)
SCREENED = 12  # warm starts that are certified when no trials are searched


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a search ended.

    Attributes:
        summary: content of `summary.json`; empty when it was interrupted.
        interrupted: a signal stopped it; it can be resumed.
    """

    summary: dict[str, Any]
    interrupted: bool


def model_spec(experiment: Experiment) -> ModelSpec:
    """Say which model workers load and how they call it; a local path is made absolute."""
    data = experiment.model.model_dump(exclude=NOT_OF_THE_SPEC)
    path = str(Path(data["path"]).resolve()) if Path(data["path"]).exists() else data["path"]
    memory = Memory(**data["memory"])
    return ModelSpec(**{**data, "path": path, "memory": memory, "batch": experiment.cases.batch})


def evaluator_spec(experiment: Experiment, folder: Path, threads: int | None) -> EvaluatorSpec:
    """Say how workers build their evaluator.

    Raises:
        ConfigError: the model's folder, a network of the metrics or reference features are not there.
    """
    check_model_folder(experiment.model.path)
    experiment.metrics.check_files()
    nets = experiment.metrics.spec().absolute()
    return EvaluatorSpec(model_spec(experiment), nets, str(references_folder(experiment, folder)), threads)


def references_folder(experiment: Experiment, folder: Path) -> Path:
    """Where the uncached outputs are kept: in the run folder, unless the experiment names a shared one."""
    given = experiment.references
    return (folder / "references" if given is None else Path(given).expanduser()).resolve()


@dataclass
class SearchRun:
    """Everything one search needs; `run` does it.

    Attributes:
        experiment: what is searched.
        space: its search space.
        folder: the run folder, acquired and claimed.
        executor: where tasks run; started here.
        factory: builds the workers' evaluators.
        tracker: where the search is shown.
        on_phase: told what is being done, for people.
        on_progress: told trials done and hypervolume.
    """

    experiment: Experiment
    space: SearchSpace
    folder: RunFolder
    executor: Executor
    factory: EvaluatorFactory
    tracker: Tracker
    on_phase: Callable[[str], None] = lambda text: None
    on_progress: Callable[[int, float], None] = lambda done, volume: None

    def run(self) -> Outcome:
        """Run the search; SIGTERM and SIGINT drain it.

        Raises:
            ConfigError: the input is at fault.
            RunBrokenError: the run cannot go on; what is saved stays.
        """
        finished = self.folder.path / "summary.json"
        study = open_study(self.folder.path, self.experiment.objectives)
        told = counts(study)
        done = finished.exists() and told["complete"] + told["pruned"] >= self.experiment.search.trials
        self.tracker.start(self.experiment.name, self.experiment.to_data(), {"folder": self.folder.path.name})
        status = "FAILED"
        with stop_on_signals() as stopped:
            try:
                if done:
                    outcome = Outcome(json.loads(finished.read_text()), interrupted=False)
                else:
                    finished.unlink(missing_ok=True)  # it speaks of an earlier, shorter search
                    self.on_phase("starting workers")
                    self.executor.start(self.factory)
                    outcome = self._search(study, stopped)
                status = "KILLED" if outcome.interrupted else "FINISHED"
            finally:
                self.executor.close()
                self.tracker.finish({}, status)
        return outcome

    def _search(self, study: Any, stopped: threading.Event) -> Outcome:
        started = time.monotonic()
        dispatcher = Dispatcher(self.executor)
        cases = self.experiment.cases
        chosen, holdout = make_cases(
            self.experiment.model.prompts, cases.search, cases.holdout, cases.seed, cases.repeat
        )
        self.on_phase("profiling the uncached model")
        batch = chosen[: cases.batch]
        profile = Profiling(
            dispatcher, self.folder, batch, cases.sensitivity, stopped.is_set, self.on_phase
        ).take()
        if profile is None:
            return Outcome({}, interrupted=True)
        baseline = self._baseline(dispatcher, holdout)
        scorer = Scorer(reference_sets(self.experiment.metrics, baseline))
        check_measured(self.experiment.named(), scorer.scalars(baseline))
        loop = SearchLoop(
            self.experiment,
            self.space,
            self.folder,
            study,
            dispatcher,
            self.tracker,
            scorer,
            profile,
            chosen,
            stopped.is_set,
            self.on_progress,
        )
        again = recover_and_enqueue(study, self.space, profile, self.experiment)
        log.info("%d points queued, %d of them from an interrupted run", *again)
        self.on_phase(f"searching: {self.experiment.search.trials} trials on {len(chosen)} cases")
        loop.run()
        if stopped.is_set():
            return Outcome({}, interrupted=True)
        told = sum(counts(study)[state] for state in ("complete", "pruned"))
        settings = self.experiment.search
        if told < settings.trials:
            self.on_phase(f"{told} of {settings.trials} trials: search.max_seconds is {settings.max_seconds}")
        rows = candidates(loop, self.experiment) if self.experiment.search.trials else self._screened(profile)
        self.on_phase(f"certifying {len(rows)} candidates on {len(holdout)} held-out cases")
        floors = uncached_floors(baseline, scorer)
        certified = certify(
            dispatcher,
            rows,
            self.experiment,
            scorer,
            floors,
            holdout,
            self.folder.path / "certification",
            stopped.is_set,
            self.on_phase,
        )
        if stopped.is_set():
            return Outcome({}, interrupted=True)
        self.on_phase("exporting")
        members, tiers = export(self.folder, self.experiment, profile, certified, holdout)
        drawn = [row for row in loop.rows if row.duplicate_of is None]
        data = summary(
            self.experiment,
            baseline,
            scorer,
            floors,
            {**counts(study), "deduplicated": loop.deduplicated},
            len(drawn) * len(chosen) + (len(certified) + 1) * len(holdout) + len(chosen),
            time.monotonic() - started,
            loop.volume(),
            members,
            tiers,
            certified,
            stored(references_folder(self.experiment, self.folder.path)),
        )
        write_summary(self.folder, data)
        plot = pareto_png(self.folder.path / "pareto.png", data, loop.rows)
        self._track_end(data, plot)
        return Outcome(data, interrupted=False)

    def _baseline(self, dispatcher: Dispatcher, holdout: tuple[Case, ...]) -> Measurement:
        self.on_phase("measuring the uncached model")
        value = dispatcher.run("baseline", holdout, self.experiment.search.certify_rounds).value
        if not isinstance(value, Measurement):
            raise TypeError("a baseline task returned something else")
        return value

    def _screened(self, profile: Profile) -> list[TrialRow]:
        """Warm starts as rows, for a search without trials."""
        scheduler = Scheduler(profile)
        rows = []
        for number, (family, params) in enumerate(warm_starts(self.space, scheduler, SCREENED)):
            policy = self.space.policy(family, params, profile.calibration, scheduler)
            rows.append(TrialRow(number, family, params, policy.to_data(), {}, "", ""))
        return rows

    def _track_end(self, data: dict[str, Any], plot: Path) -> None:
        self.tracker.artifacts(
            {"presets": self.folder.presets, "plots": plot, "summary": self.folder.path / "summary.json"}
        )
        metrics = {"hypervolume": data["hypervolume"], "front": float(len(data["front"]))}
        for tier, member in data["tiers"].items():
            metrics[f"{tier}_speedup"] = member["speedup"]
            metrics[f"{tier}_psnr_p5"] = member["holdout"]["psnr_p5"]["value"]
        self.tracker.progress(data["trials"]["complete"], metrics)


def recover_and_enqueue(
    study: Any, space: SearchSpace, profile: Profile, experiment: Experiment
) -> tuple[int, int]:
    """Queue what a dead driver left, and at the first start the warm starts; return both counts."""
    again = recover(study)
    if study.get_trials(deepcopy=False):
        return again, again
    wanted = round(experiment.search.trials * experiment.search.warm_starts)
    points = warm_starts(space, Scheduler(profile), wanted)
    for family, params in points:
        study.enqueue_trial(space.encode(family, params), skip_if_exists=True)
    return len(points), 0


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """Set an event on SIGTERM and SIGINT instead of ending the process; a second one ends it."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        log.warning("stopping: what is in flight is finished first; once more to stop at once")
        event.set()

    old = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield event
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
