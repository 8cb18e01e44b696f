"""Executors: where tasks run. The driver submits, and takes results as they come."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from autotune.scoring.case import Case
from autotune.scoring.evaluator import Evaluator
from autotune.scoring.measurement import Measurement
from autotune.scoring.profile import Profile
from xslim.errors import XSlimError
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset

TaskKind = Literal["evaluate", "baseline", "profile", "probe"]


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for a worker.

    Attributes:
        id: unique within a search, chosen by the driver.
        kind: the evaluator's method.
        cases: what is drawn.
        policy: for `evaluate`; a preset has to fit the model.
        count: timing rounds, or for `probe` the step.
        timed_traces: executed traces whose latency is known; they are not timed again.
    """

    id: int
    kind: TaskKind
    cases: tuple[Case, ...]
    policy: Policy | Preset | None = None
    count: int = 1
    timed_traces: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What came of a task.

    Attributes:
        task: the task.
        value: the measurement, profile or picture error of a probe; None when it failed.
        error: traceback, or what happened to the worker.
        lost: the worker died; the task may be submitted once more.
        fault: one line for the user when the input is at fault, not the run.
    """

    task: Task
    value: Measurement | Profile | float | None = None
    error: str | None = None
    lost: bool = False
    fault: str | None = None


class EvaluatorFactory(Protocol):
    """Builds an evaluator in a worker; has to travel to it."""

    def build(self) -> Evaluator:
        """Load what the evaluator needs."""
        ...


class Executor(Protocol):
    """Runs tasks on one or more workers."""

    @property
    def slots(self) -> int:
        """How many tasks run at once."""
        ...

    def start(self, factory: EvaluatorFactory) -> None:
        """Start the workers."""
        ...

    def submit(self, task: Task) -> None:
        """Queue a task."""
        ...

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        """Return results that are ready, after at most so many seconds; may be empty."""
        ...

    def close(self) -> None:
        """Stop the workers; tasks in flight are dropped."""
        ...


def perform(evaluator: Evaluator, task: Task) -> TaskResult:
    """Run a task; the worker's border: whatever it raises becomes a result."""
    try:
        if task.kind == "profile":
            return TaskResult(task, evaluator.profile(task.cases))
        if task.kind == "probe":
            return TaskResult(task, evaluator.probe(task.cases, task.count))
        if task.kind == "baseline":
            return TaskResult(task, evaluator.baseline(task.cases, task.count))
        if task.policy is None:
            raise ValueError("an evaluate task without a policy")
        return TaskResult(task, evaluator.evaluate(task.policy, task.cases, task.count, task.timed_traces))
    except Exception as error:  # the worker's border
        # what breaks the uncached model is the input's fault; what breaks under a policy is the policy's
        policys = task.kind == "evaluate" and not isinstance(task.policy, Preset)
        ours = isinstance(error, XSlimError) and not policys
        return TaskResult(task, error=traceback.format_exc(), fault=str(error) if ours else None)


class LocalExecutor:
    """Runs tasks one after the other in this process."""

    def __init__(self) -> None:
        self._queue: deque[Task] = deque()
        self._evaluator: Evaluator | None = None

    @property
    def slots(self) -> int:
        """One."""
        return 1

    def start(self, factory: EvaluatorFactory) -> None:
        """Load the evaluator here."""
        self._evaluator = factory.build()

    def submit(self, task: Task) -> None:
        """Queue a task."""
        self._queue.append(task)

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        """Run the next task, however long it takes."""
        if not self._queue or self._evaluator is None:
            return []
        return [perform(self._evaluator, self._queue.popleft())]

    def close(self) -> None:
        """Forget the evaluator and what is queued."""
        self._queue.clear()
        self._evaluator = None
