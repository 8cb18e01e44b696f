"""Follows a search: builds its status, keeps `status.json`, and tells whoever shows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from autotune.search.executor import EvaluatorFactory, Executor, Task, TaskResult
from autotune.search.experiment import Experiment
from autotune.search.status import FILE, Status, Trials, Workers, read_status
from autotune.search.store import RunFolder

log = logging.getLogger(__name__)
WRITE_EVERY_S = 1.0


class Progress:
    """The one place that knows how far a search is; called by the driver's thread only.

    Args:
        experiment: what is searched.
        folder: where `status.json` is kept; None keeps none.
        show: told every new status, often; it throttles itself.
        clock: seconds; monotonic.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: RunFolder | None = None,
        show: Callable[[Status], None] = lambda status: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._show, self._clock = folder, show, clock
        before = None if folder is None else read_status(folder.path)
        spent = 0.0 if before is None else before.worker_seconds
        wanted = experiment.search.trials
        self._status = Status(experiment.name, "starting", wanted, worker_seconds=spent)
        self._started = clock()
        self._searching: tuple[int, float] | None = None  # trials done before, and when the search began
        self._asked = 0
        self._written = float("-inf")

    @property
    def status(self) -> Status:
        """The newest one."""
        return self._status

    def phase(self, text: str) -> None:
        """Say what is being done now."""
        self._update(replace(self._status, phase=text), now=True)

    def trials(self, trials: Trials) -> None:
        """Say what the trials have brought; the first call starts the estimate of the time left."""
        if self._searching is None:
            self._searching = (trials.done, self._clock())
        self._update(replace(self._status, trials=trials))

    def workers(self, slots: int, flying: int) -> None:
        """Say how many workers there are and how many tasks are in flight.

        Args:
            slots: tasks that can run at once.
            flying: tasks submitted and not yet back.
        """
        self._asked = max(self._asked, slots)
        counted = Workers.counted(self._asked, slots, flying)
        self._update(replace(self._status, workers=counted, running=flying))

    def environment(self, environment: Mapping[str, str]) -> None:
        """Say what the workers measure on, as measurements tell it."""
        self._update(replace(self._status, gpu="cuda" in environment))

    def _update(self, status: Status, now: bool = False) -> None:
        moment = self._clock()
        elapsed = moment - self._started
        busy_s = self._status.workers.busy * (elapsed - self._status.elapsed_s)
        status = replace(status, elapsed_s=elapsed, worker_seconds=status.worker_seconds + busy_s)
        if self._searching is not None:
            before, began = self._searching
            status = status.with_eta(before, moment - began)
        self._status = status
        self._show(status)
        if now or moment - self._written >= WRITE_EVERY_S:
            self._written = moment
            self._write(status)

    def _write(self, status: Status) -> None:
        if self._folder is None:
            return
        try:
            self._folder.write(FILE, status.to_json() + "\n")
        except OSError as error:  # a search does not end for want of a status
            log.debug("cannot write %s: %s", FILE, error)


class WatchedExecutor:
    """An executor that tells a progress how many tasks are in flight, before and after every wait."""

    def __init__(self, executor: Executor, progress: Progress) -> None:
        self._executor, self._progress = executor, progress
        self._flying: set[tuple[int, int]] = set()

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        return self._executor.slots

    def start(self, factory: EvaluatorFactory) -> None:
        """Start the workers."""
        self._executor.start(factory)

    def submit(self, task: Task) -> None:
        """Queue a task."""
        self._flying.add((task.id, task.attempt))
        self._executor.submit(task)

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        """Return results that are ready, after at most so many seconds; may be empty."""
        self._tell()
        results = self._executor.wait(timeout_s)
        self._flying.difference_update((result.task.id, result.task.attempt) for result in results)
        self._tell()
        return results

    def close(self) -> None:
        """Stop the workers; tasks in flight are dropped."""
        self._flying.clear()
        self._executor.close()

    def _tell(self) -> None:
        self._progress.workers(self._executor.slots, len(self._flying))
