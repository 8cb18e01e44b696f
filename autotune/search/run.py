"""One search from start to end: profile, search, certify, export. What the `search` verb runs."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.scoring.case import Case, make_cases
from autotune.scoring.evaluator import EvaluatorSpec
from autotune.scoring.lesson import Learned
from autotune.scoring.measurement import Measurement
from autotune.scoring.pipeline import Memory, ModelSpec, check_model_folder
from autotune.scoring.profile import Profile
from autotune.scoring.reference import stored
from autotune.scoring.sampling import sampling_of
from autotune.search.certify import Certified, candidates, certify, measuring_context
from autotune.search.dispatch import Dispatcher
from autotune.search.draining import stop_on_signals
from autotune.search.executor import EvaluatorFactory, Executor
from autotune.search.experiment import Experiment
from autotune.search.export import Exported, Totals, export, nearest, summary, write_summary
from autotune.search.floors import uncached_floors
from autotune.search.given import with_given
from autotune.search.lessons import Lessons
from autotune.search.model import NOT_OF_THE_SPEC
from autotune.search.objective import log_metric
from autotune.search.optuna_study import counts, recover
from autotune.search.pictures import keep_pictures
from autotune.search.plot import pareto_png
from autotune.search.profiling import Profiling
from autotune.search.progress import Progress, WatchedExecutor
from autotune.search.refined import few_steps, with_correctors, with_levels
from autotune.search.schedules import Scheduler
from autotune.search.scorer import Scorer, check_measured, reference_sets
from autotune.search.screening import Screen
from autotune.search.space import SearchSpace
from autotune.search.status import Status
from autotune.search.store import RunFolder
from autotune.search.study import SearchLoop
from autotune.search.tracker import Tracker
from autotune.search.tracking import close_tracker, open_tracker
from autotune.search.trial_book import TrialBook, tell_untold
from autotune.search.trial_row import TrialRow
from autotune.search.warm_starts import warm_starts

if TYPE_CHECKING:
    import optuna

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
        show: told how far the search is, for people; often.
    """

    experiment: Experiment
    space: SearchSpace
    folder: RunFolder
    executor: Executor
    factory: EvaluatorFactory
    tracker: Tracker
    show: Callable[[Status], None] = lambda status: None

    def __post_init__(self) -> None:
        self.progress = Progress(self.experiment, self.folder, self.show)

    def run(self) -> Outcome:
        """Run the search; SIGTERM and SIGINT drain it.

        Raises:
            ConfigError: the input is at fault.
            RunBrokenError: the run cannot go on; what is saved stays.
        """
        finished = self.folder.path / "summary.json"
        study = self.folder.open_study(self.experiment)
        told = counts(study)
        done = finished.exists() and told["complete"] + told["pruned"] >= self.experiment.search.trials
        status = "FAILED"
        with stop_on_signals() as stopped:
            try:
                if done:
                    outcome = Outcome(json.loads(finished.read_text()), interrupted=False)
                    self._open_tracker(self._profiled(), outcome.summary["environment"])
                else:
                    finished.unlink(missing_ok=True)  # it speaks of an earlier, shorter search
                    self.progress.phase("starting workers")
                    self.executor.start(self.factory)
                    outcome = self._search(study, stopped)
                status = "KILLED" if outcome.interrupted else "FINISHED"
            finally:
                self.executor.close()
                self.tracker.finish({}, status)
        return outcome

    def _search(self, study: Any, stopped: threading.Event) -> Outcome:
        started = time.monotonic()
        dispatcher = Dispatcher(WatchedExecutor(self.executor, self.progress))
        cases = self.experiment.cases
        chosen, holdout = self._cases()
        self.progress.phase("profiling the uncached model")
        batch = chosen[: cases.batch]
        profile = Profiling(
            dispatcher, self.folder, batch, cases.sensitivity, stopped.is_set, self.progress.phase
        ).take()
        if profile is None:
            return Outcome({}, interrupted=True)
        baseline = self._baseline(dispatcher, holdout)
        self.progress.environment(baseline.environment)
        self._open_tracker(profile, baseline.environment)
        scorer = Scorer(reference_sets(self.experiment.metrics, baseline))
        check_measured(self.experiment.named(), scorer.scalars(baseline))
        settings = self.experiment.search
        space = with_given(self.space, settings.presets, settings.published, profile.signature)
        screen = Screen(space, Scheduler(profile), self.experiment.objectives, self.experiment.bounds)
        loop = self._loop(study, dispatcher, scorer, screen, chosen, stopped)
        self.progress.phase(f"searching: {settings.trials} trials on {len(chosen)} cases")
        self.progress.trials(loop.so_far())
        loop.run()
        if stopped.is_set():
            return Outcome({}, interrupted=True)
        log.info("replay: %s", screen.facts())
        if loop.stopped_by is not None:
            limit = getattr(settings, loop.stopped_by)
            self.progress.phase(
                f"{loop.book.told} of {settings.trials} trials: search.{loop.stopped_by} is {limit}"
            )
        rows = candidates(loop, self.experiment) if settings.trials else screened(screen)
        rows = self._refined(rows, loop, dispatcher, stopped)
        self.progress.phase(f"certifying {len(rows)} candidates on {len(holdout)} held-out cases")
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
            self.progress.phase,
        )
        if stopped.is_set():
            return Outcome({}, interrupted=True)
        self.progress.phase("exporting")
        members, tiers = export(self.folder, self.experiment, profile, certified, holdout)
        self._draw(dispatcher, members, holdout)
        data = summary(
            self.experiment,
            baseline,
            scorer,
            floors,
            Totals(
                trials={**counts(study), "deduplicated": loop.deduplicated},
                images=loop.images + (len(certified) + 1) * len(holdout) + len(chosen),
                wall_s=time.monotonic() - started,
                hypervolume=loop.volume(),
                screening=screen.facts(),
                nearest=None if members else self._nearest(certified, loop),
                references=stored(references_folder(self.experiment, self.folder.path)),
            ),
            members,
            tiers,
            certified,
        )
        write_summary(self.folder, data)
        pareto_png(self.folder.path / "pareto.png", data, loop.rows)
        close_tracker(self.tracker, self.experiment, data, self.folder.path)
        self.progress.phase("finished")
        return Outcome(data, interrupted=False)

    def _refined(
        self, rows: list[TrialRow], loop: SearchLoop, dispatcher: Dispatcher, stopped: threading.Event
    ) -> list[TrialRow]:
        """Candidates, and what lessons on the search cases make of them."""
        settings, leading = self.experiment.search, loop.screen.leading
        if not (settings.rectify or settings.levels):
            return rows
        context, kept = measuring_context(self.experiment), self.folder.path / "learned"
        lessons = Lessons(dispatcher, kept, loop.cases, context, stopped.is_set)
        if settings.rectify:
            rows = with_correctors(rows, lessons, self.progress.phase)
        if settings.levels:
            full = [row for row in loop.rows if row.cases >= len(loop.cases)]
            few = few_steps(
                full, self.experiment.model.num_steps, lambda row: log_metric(leading, row.scalars[leading])
            )
            rows = with_levels(rows, few, lessons, self.progress.phase)
        return rows

    def _draw(self, dispatcher: Dispatcher, members: Sequence[Exported], holdout: tuple[Case, ...]) -> None:
        """Keep pictures of the front for the report."""
        count = self.experiment.compare.pictures
        if count and members:
            drawn = {
                Path(member.file).stem: Learned(
                    member.preset.policy, sampling_of(member.certified.row.sampling)
                )
                for member in members
            }
            batch = holdout[: self.experiment.cases.batch]
            keep_pictures(dispatcher, self.folder.path / "pictures", drawn, batch, count)

    def _baseline(self, dispatcher: Dispatcher, holdout: tuple[Case, ...]) -> Measurement:
        self.progress.phase("measuring the uncached model")
        value = dispatcher.run("baseline", holdout, self.experiment.search.certify_rounds).value
        if not isinstance(value, Measurement):
            raise TypeError("a baseline task returned something else")
        return value

    def _loop(
        self,
        study: optuna.Study,
        dispatcher: Dispatcher,
        scorer: Scorer,
        screen: Screen,
        cases: tuple[Case, ...],
        stopped: threading.Event,
    ) -> SearchLoop:
        """The loop, with what a dead driver left told or queued again, and at the first start warm starts."""
        search = self.experiment.search
        tell_untold(study, self.folder.rows(), self.experiment)
        again = recover(study)
        book = TrialBook(study, screen.space, search.sampler, search.seed, self.folder.check_study)
        if again:
            log.info("%d points of an interrupted run are queued again", again)
        if not book.asked:
            for family, params in warm_starts(screen, search.warm_starts)[: search.trials]:
                book.queue(family, params, {"source": "warm start"})
        return SearchLoop(
            self.experiment,
            self.folder,
            book,
            dispatcher,
            self.tracker,
            scorer,
            screen,
            cases,
            stopped.is_set,
            self.progress.trials,
            lambda: self.progress.status.worker_seconds,
        )

    def _nearest(self, certified: Sequence[Certified], loop: SearchLoop) -> dict[str, Any] | None:
        """The candidate, or else the trial, that comes nearest to the bounds."""
        held_out = [(one.row.trial, one.scalars) for one in certified]
        return nearest(self.experiment.bounds, held_out or [(row.trial, row.scalars) for row in loop.rows])

    def _cases(self) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """Search and held-out cases."""
        cases = self.experiment.cases
        prompts = self.experiment.model.prompts
        return make_cases(prompts, cases.search, cases.holdout, cases.seed, cases.repeat)

    def _profiled(self) -> Profile:
        return Profile.from_json((self.folder.path / "profile.json").read_text())

    def _open_tracker(self, profile: Profile, environment: Mapping[str, str]) -> None:
        folder, cases = self.folder.path, self._cases()
        open_tracker(self.tracker, self.experiment, profile.signature, environment, folder, cases)


def screened(screen: Screen) -> list[TrialRow]:
    """The best warm starts as rows, for a search without trials."""
    found = []
    for number, (family, params) in enumerate(warm_starts(screen, SCREENED)):
        one = screen.candidate(family, params)
        policy, sampling = one.policy.to_data(), one.sampling.to_data()
        row = TrialRow(number, family, params, policy, {}, "", "", source="warm start", sampling=sampling)
        found.append(row)
    return found
