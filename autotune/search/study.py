"""The search loop: ask, evaluate, keep, tell. One driver; what is told was written to the disk before."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from optuna.trial import TrialState

from autotune.scoring.case import Case
from autotune.scoring.measurement import Measurement
from autotune.scoring.sampling import sampling_of
from autotune.search.cliffs import surroundings
from autotune.search.dispatch import POLL_S, Dispatcher, RunBrokenError, last_line
from autotune.search.executor import TaskResult
from autotune.search.experiment import Experiment
from autotune.search.identity import effective_key
from autotune.search.objective import (
    HYPERVOLUME_REFERENCE,
    METRIC_NAMES,
    METRIC_OF,
    PREDICTED,
    violations,
)
from autotune.search.pareto import front, hypervolume, spread
from autotune.search.parts import Job, cut
from autotune.search.race import beaten
from autotune.search.scorer import Scorer
from autotune.search.screening import Screen
from autotune.search.status import Trials, trials_so_far
from autotune.search.store import RunFolder
from autotune.search.tracker import Tracker
from autotune.search.trial_book import TrialBook
from autotune.search.trial_row import TrialRow
from autotune.search.work import Asked, Work
from xslim.policy.policy import Policy

log = logging.getLogger(__name__)
FAILURES_IN_A_ROW = 3
SAMPLED_EVERY = 4  # of the points without a source, every so many come from the sampler
NEIGHBOUR = "neighbour"  # source of a trial that looks around another
GROWTH = 1e-3  # of the hypervolume, below which a trial counts as no progress


@dataclass
class SearchLoop:
    """One search over a folder, an executor and a study.

    Attributes:
        rows: everything measured so far, this run's and earlier ones'.
        stopped_by: the setting that ended the search before its trials were in, or None.
    """

    experiment: Experiment
    folder: RunFolder
    book: TrialBook
    dispatcher: Dispatcher
    tracker: Tracker
    scorer: Scorer
    screen: Screen
    cases: tuple[Case, ...]
    stop: Callable[[], bool]
    on_trials: Callable[[Trials], None] = lambda trials: None
    worker_seconds: Callable[[], float] = lambda: 0.0

    def __post_init__(self) -> None:
        self.rows: list[TrialRow] = self.folder.rows()
        self.stopped_by: str | None = None
        self.deduplicated = sum(row.duplicate_of is not None for row in self.rows)
        self._by_key: dict[str, TrialRow] = {}
        self._volumes: list[float] = []
        self._front: list[TrialRow] = []
        for row in self.rows:
            policy = Policy.parse(row.policy)
            sampling = sampling_of(row.sampling)
            if row.duplicate_of is None:
                self.screen.note(policy, sampling, row.scalars)
            self._by_key[effective_key(policy, sampling)] = row
            self._update_front(row)
        self._work: dict[str, Work] = {}
        self._parts: deque[tuple[str, int]] = deque()  # that may be sent
        self._results: deque[tuple[Any, TaskResult]] = deque()  # that are in
        self._timed: dict[str, dict[str, float]] = {}  # trace of the timed part -> its latency
        self._failures = 0

    def run(self) -> None:
        """Search until the trials, a limit or the user say stop; what is in flight is finished.

        Raises:
            RunBrokenError: three candidates in a row failed.
        """
        try:
            self._run()
        except BaseException:
            self._keep_results()
            raise

    def _run(self) -> None:
        started = time.monotonic()
        if self.rows:  # a driver that died after writing it may not have shown it
            self._show(self.rows[-1], self.book.attempt(self.rows[-1].trial))
        while not self.stop() and self.book.told < self.experiment.search.trials:
            self.stopped_by = self._limit(time.monotonic() - started)
            if self.stopped_by is not None:
                break
            # one thing at a time: between two, the executor hands what waits to workers that became free
            sent = self._send_or_ask()
            self._results.extend(self.dispatcher.wait(0.0 if sent or self._results else POLL_S))
            if self._results:
                self._take(*self._results.popleft())
        self._finish_work()

    def _send_or_ask(self) -> bool:
        """Send a part, or ask for a candidate; whether there was room for one."""
        if not self.dispatcher.free or not (self._parts or self._wanted > 0):
            return False
        if self._parts:
            self._send(*self._parts.popleft())
        else:
            self._ask()
        return True

    def best(self) -> list[TrialRow]:
        """Rows on the feasible front, fastest first."""
        return sorted(self._front, key=lambda row: self.minimised(row))

    def minimised(self, row: TrialRow) -> tuple[float, ...]:
        """A row's objectives, all to be minimised."""
        return tuple(
            -row.scalars[name] if METRIC_NAMES[name] else row.scalars[name]
            for name in self.experiment.objectives
        )

    def volume(self) -> float:
        """Hypervolume of the feasible front."""
        return self._volumes[-1] if self._volumes else 0.0

    @property
    def volumes(self) -> list[float]:
        """Hypervolume after each row."""
        return list(self._volumes)

    @property
    def images(self) -> int:
        """Pictures or clips drawn for the trials."""
        return sum(row.cases for row in self.rows if row.duplicate_of is None)

    def so_far(self) -> Trials:
        """What the trials have brought."""
        return trials_so_far(
            self.experiment, self.rows, self.book.counts, self._front, self.volume(), self.images
        )

    @property
    def _wanted(self) -> int:
        """Candidates still to be asked for."""
        asked = sum(1 + len(work.others) for work in self._work.values())
        return self.experiment.search.trials - self.book.told - asked

    def _limit(self, seconds: float) -> str | None:
        """The setting that says enough, or None."""
        search = self.experiment.search
        patience = search.patience
        stalled = (
            patience is not None
            and len(self._volumes) > patience
            and self._volumes[-1] <= self._volumes[-1 - patience] * (1 + GROWTH)
        )
        reached = {
            "max_seconds": search.max_seconds is not None and seconds > search.max_seconds,
            "max_worker_seconds": search.max_worker_seconds is not None
            and self.worker_seconds() > search.max_worker_seconds,
            "max_images": search.max_images is not None and self.images >= search.max_images,
            "patience": stalled,
        }
        return next((name for name, yes in reached.items() if yes), None)

    def _ask(self) -> None:
        if self.book.fresh:
            self._look_around()
        if self.experiment.search.screening and self.book.fresh and self.book.asked % SAMPLED_EVERY:
            known = self._by_key.keys() | self._work.keys()
            point = self.screen.propose(known, [row.scalars for row in self._front])
            if point is not None:
                self.book.queue(*point, {"source": "screening"})
        trial, family, params = self.book.ask()
        policy, sampling = self.screen.setting(family, params)
        key = effective_key(policy, sampling)
        known_row = self._by_key.get(key)
        if known_row is not None:
            asked = known_row.copied(trial.number, family, params, trial.user_attrs)
            self._finish((trial, family, params), asked)
        elif key in self._work:
            self._work[key].others.append((trial, family, params))
        else:
            rounds = self.experiment.search.timing_rounds
            job = Job(policy, self.cases, rounds, sampling=sampling)
            parts = cut(job, *(self.experiment.cases.batch,) * 2)
            self._work[key] = Work((trial, family, params), policy, sampling, parts)
            self._parts.append((key, 0))

    def _look_around(self) -> None:
        """Near the end, queue the surroundings of members of the front; once in a search."""
        search = self.experiment.search
        reserved = round(search.trials * search.neighbours)
        if not 0 < self._wanted <= reserved or self._front == [] or self.book.queued(NEIGHBOUR):
            return
        best = self.best()
        for i in spread([self.minimised(row) for row in best], max(1, reserved // 2)):
            for family, params in surroundings(self.screen.space, best[i].family, best[i].params):
                self.book.queue(family, params, {"source": NEIGHBOUR, "neighbour_of": best[i].trial})

    def _send(self, key: str, index: int) -> None:
        work = self._work.get(key)
        if work is None:  # another part of it failed
            return
        part, timed = work.parts[index], frozenset(self._timed)
        self.dispatcher.submit(
            "evaluate", part.cases, (key, index), part.policy, part.rounds, timed, part.sampling
        )

    def _take(self, tag: Any, result: TaskResult) -> None:
        key, index = tag
        work = self._work.get(key)
        if work is None:  # another part of it failed, or it was beaten
            return
        if not isinstance(result.value, Measurement):
            self._fail(self._work.pop(key), result)
            return
        self._failures = 0
        work.found[index] = result.value
        if work.whole or (index == 0 and self._beaten(work)):
            self._close(key)
        elif index == 0:
            self._parts.extend((key, i) for i in range(1, len(work.parts)))

    def _beaten(self, work: Work) -> bool:
        metric = METRIC_OF[self.screen.leading]
        errors = work.errors(metric)
        by = beaten(work.measured.quality.compute_fraction, errors, metric, self._front)
        if by is not None:
            log.info("trial %d is beaten by trial %d on its first cases", work.asked[0].number, by.trial)
        return by is not None

    def _close(self, key: str) -> None:
        """Make rows of a candidate whose measuring has ended."""
        work = self._work.pop(key)
        row = self._row(work)
        self._by_key[key] = row
        self.screen.note(work.policy, work.sampling, row.scalars)
        self._finish(work.asked, row)
        for other in work.others:
            self._finish(other, row.copied(other[0].number, *other[1:], other[0].user_attrs))

    def _row(self, work: Work) -> TrialRow:
        scalars = self.scorer.scalars(work.measured)
        trace = work.found[0].quality.trace_sha256
        if work.measured.latency is not None:
            self._timed[trace] = {name: scalars[name] for name in ("latency", "speedup")}
        else:  # the same work was timed before, or nothing is timed
            scalars |= self._timed.get(trace, {})
        named = (*self.experiment.objectives, *self.experiment.bounds)
        return work.row(scalars, {METRIC_OF[name] for name in named} & set(PREDICTED))

    def _finish(self, asked: Asked, row: TrialRow) -> None:
        """Write, then tell, then show."""
        trial = asked[0]
        self.folder.append(row)
        self.rows.append(row)
        self.deduplicated += row.duplicate_of is not None
        self._update_front(row)
        values = [row.scalars[name] for name in self.experiment.objectives]
        broken = violations(self.experiment.bounds, row.scalars)
        self.book.tell(trial, values, broken, {"actions": row.actions, "cases": row.cases})
        self._show(row, int(trial.user_attrs.get("attempt", 1)))

    def _show(self, row: TrialRow, attempt: int) -> None:
        tags = {
            "family": row.family,
            "actions": row.actions,
            "source": row.source,
            "feasible": str(self._feasible(row)).lower(),
            "attempt": str(attempt),
        }
        self.tracker.trial(row.trial, row.params, row.scalars, tags)
        self.tracker.front([member.trial for member in self._front])
        trials = self.so_far()
        self.tracker.progress(trials.done, trials.metrics())
        self.on_trials(trials)

    def _feasible(self, row: TrialRow) -> bool:
        return all(v <= 0 for v in violations(self.experiment.bounds, row.scalars).values())

    def _update_front(self, row: TrialRow) -> None:
        if row.duplicate_of is None and row.cases >= len(self.cases) and self._feasible(row):
            members = [*self._front, row]
            self._front = [members[i] for i in front([self.minimised(member) for member in members])]
        reference = [HYPERVOLUME_REFERENCE[name] for name in self.experiment.objectives]
        self._volumes.append(hypervolume([self.minimised(member) for member in self._front], reference))

    def _fail(self, work: Work, result: TaskResult) -> None:
        reason = result.infeasible or (result.error or "")[-4000:]
        for trial, *_ in (work.asked, *work.others):
            self.book.close(trial, TrialState.FAIL, {"error": reason})
        log.warning("trial %d failed: %s", work.asked[0].number, last_line(reason))
        if result.infeasible is not None:
            return
        self._failures += 1
        if self._failures >= FAILURES_IN_A_ROW:
            raise RunBrokenError(f"{FAILURES_IN_A_ROW} trials in a row failed: {last_line(result.error)}")

    def _keep_results(self) -> None:
        """Write the rows of candidates whose last result is in; a resumed search tells them."""
        with suppress(OSError):  # such as a full disk, which has ended the search
            for (key, index), result in self._results:
                work = self._work.get(key)
                if work is None or not isinstance(result.value, Measurement):
                    continue
                work.found[index] = result.value
                if work.whole:
                    self.folder.append(self._row(work))

    def _finish_work(self) -> None:
        """Take what is in flight; candidates that are not whole then are asked again by a resumed search."""
        while self._results:
            self._take(*self._results.popleft())
        self.dispatcher.drain(self._take)
        self._parts.clear()
