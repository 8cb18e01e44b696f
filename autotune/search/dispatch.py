"""Dispatch: keeps an executor busy, gives a lost task one more try, and turns faults into errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count

from autotune.scoring.case import Case
from autotune.scoring.lesson import Lesson
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.search.executor import Executor, RunBrokenError, Task, TaskKind, TaskResult, last_line
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset

__all__ = ["Dispatcher", "RunBrokenError", "last_line"]

log = logging.getLogger(__name__)
POLL_S = 1.0
# tasks queued beyond the slots, as a share of them: who is free gets one at once, while the driver tells and
# asks. One worker gets none, so that its search stays sequential and repeatable.
AHEAD = 0.25


class Dispatcher:
    """Submits tasks and returns what came of them, in the order they finish."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._ids = count()
        self._flying: dict[int, tuple[Task, object]] = {}

    @property
    def free(self) -> int:
        """Tasks worth submitting: those that would start at once, and a few that then wait."""
        slots = self._executor.slots
        return max(0, slots + int(AHEAD * slots) - len(self._flying))

    @property
    def flying(self) -> int:
        """Tasks submitted and not yet returned."""
        return len(self._flying)

    def submit(
        self,
        kind: TaskKind,
        cases: Sequence[Case],
        tag: object = None,
        policy: Policy | Preset | None = None,
        count: int = 1,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
        lesson: Lesson | None = None,
    ) -> None:
        """Queue a task; `tag` comes back with its result."""
        task = Task(next(self._ids), kind, tuple(cases), policy, count, timed_traces, sampling, lesson)
        self._flying[task.id] = task, tag
        self._executor.submit(task)

    def wait(self, timeout_s: float = POLL_S) -> list[tuple[object, TaskResult]]:
        """Return finished tasks with their tags, after at most so many seconds; may be empty.

        Raises:
            ConfigError: a worker found the input at fault.
        """
        done = []
        for result in self._executor.wait(timeout_s):
            task, tag = self._flying.get(result.task.id, (None, None))
            if task is None or task.attempt != result.task.attempt:
                log.warning("a late result of task %d is dropped: it was sent again", result.task.id)
                continue
            if result.fault is not None:
                raise ConfigError(result.fault)
            if result.lost and task.attempt == 0:
                log.warning("a worker died; its task runs once more: %s", last_line(result.error))
                again = replace(task, attempt=1)
                self._flying[task.id] = again, tag
                self._executor.submit(again)
                continue
            del self._flying[task.id]
            done.append((tag, result))
        return done

    def run(self, kind: TaskKind, cases: Sequence[Case], count: int) -> TaskResult:
        """Run one task to its end.

        Raises:
            RunBrokenError: it failed.
        """
        self.submit(kind, cases, count=count)
        while True:
            for _, result in self.wait():
                if result.value is None:
                    raise RunBrokenError(f"{kind} failed: {last_line(result.error)}")
                return result

    def drain(self, handle: Callable[[object, TaskResult], None]) -> None:
        """Wait for everything in flight."""
        while self._flying:
            for tag, result in self.wait():
                handle(tag, result)
