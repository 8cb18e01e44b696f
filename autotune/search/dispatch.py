"""Dispatch: keeps an executor busy, gives a lost task one more try, and turns faults into errors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from itertools import count

from autotune.scoring.case import Case
from autotune.search.executor import Executor, Task, TaskKind, TaskResult
from xslim.errors import ConfigError, XSlimError
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset

log = logging.getLogger(__name__)
POLL_S = 1.0


class RunBrokenError(XSlimError):
    """The run cannot go on; what is saved stays, and the search can be resumed."""


class Dispatcher:
    """Submits tasks and returns what came of them, in the order they finish."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._ids = count()
        self._flying: dict[int, object] = {}
        self._retried: set[int] = set()

    @property
    def free(self) -> int:
        """Tasks that would start at once."""
        return max(0, self._executor.slots - len(self._flying))

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
    ) -> None:
        """Queue a task; `tag` comes back with its result."""
        task = Task(next(self._ids), kind, tuple(cases), policy, count, timed_traces)
        self._flying[task.id] = tag
        self._executor.submit(task)

    def wait(self) -> list[tuple[object, TaskResult]]:
        """Return finished tasks with their tags, after at most a moment; may be empty.

        Raises:
            ConfigError: a worker found the input at fault.
        """
        done = []
        for result in self._executor.wait(POLL_S):
            if result.fault is not None:
                raise ConfigError(result.fault)
            if result.lost and result.task.id not in self._retried:
                log.warning("a worker died; its task runs once more")
                self._retried.add(result.task.id)
                self._executor.submit(result.task)
                continue
            done.append((self._flying.pop(result.task.id), result))
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


def last_line(text: str | None) -> str:
    """The last line of a traceback: what went wrong."""
    lines = (text or "unknown error").strip().splitlines()
    return lines[-1] if lines else "unknown error"
