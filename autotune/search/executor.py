"""Executors: where tasks run. The driver submits, and takes results as they come."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from autotune.scoring.case import Case
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.measurement import Measurement, Pictures
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.search.device_errors import broken_device, free_memory, out_of_memory
from xslim.errors import ConfigError, XSlimError
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset

if TYPE_CHECKING:  # they load torch, which a simulated evaluator's worker does without
    from autotune.scoring.evaluator import Evaluator
    from autotune.scoring.profile import Profile

Value: TypeAlias = "Measurement | Profile | float | Pictures | Learned"
TaskKind = Literal["evaluate", "baseline", "profile", "probe", "draw", "learn"]


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for a worker.

    Attributes:
        id: unique within a search, chosen by the driver.
        kind: the evaluator's method.
        cases: what is drawn.
        policy: for `evaluate` and `draw`, where a preset has to fit the model; None draws uncached. For
            `learn` what it starts from.
        count: timing rounds, or for `probe` the step.
        timed_traces: executed traces whose latency is known; they are not timed again.
        sampling: of what is evaluated, drawn or learned for.
        lesson: what is learned.
        attempt: how often it was sent before; a result of an earlier attempt is dropped.
    """

    id: int
    kind: TaskKind
    cases: tuple[Case, ...]
    policy: Policy | Preset | None = None
    count: int = 1
    timed_traces: frozenset[str] = frozenset()
    sampling: Sampling = REFERENCE
    lesson: Lesson | None = None
    attempt: int = 0

    @property
    def timed(self) -> bool:
        """Whether it may measure latency, which is compared on devices of one kind only."""
        return self.kind == "baseline" or (self.kind == "evaluate" and self.count > 0)


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What came of a task.

    Attributes:
        task: the task.
        value: the measurement, profile, picture error of a probe, pictures or what was learned; None when it
            failed.
        error: traceback, or what happened to the worker.
        lost: the worker died, or its device broke; the task may be submitted once more.
        fault: one line for the user when the input is at fault, not the run.
        infeasible: one line when the candidate cannot run here, for want of memory; the worker is well.
        device: what it ran on, as `Evaluator.device`.
        worker: the process that ran it, one name for each start.
    """

    task: Task
    value: Value | None = None
    error: str | None = None
    lost: bool = False
    fault: str | None = None
    infeasible: str | None = None
    device: str = ""
    worker: str = ""


class RunBrokenError(XSlimError):
    """The run cannot go on; what is saved stays, and the search can be resumed."""


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
    """Run a task; the worker's border: whatever it raises becomes a result.

    A task that runs out of memory is tried once more with what PyTorch cached given back: memory may have
    been in pieces. One whose device breaks is lost, and so is the process: whoever owns it has to end it.
    """
    result = _attempt(evaluator, task)
    if result.infeasible is not None:
        free_memory()
        result = _attempt(evaluator, task)
        if result.infeasible is not None:
            free_memory()
    return replace(result, device=evaluator.device)


def _attempt(evaluator: Evaluator, task: Task) -> TaskResult:
    try:
        return TaskResult(task, _value(evaluator, task))
    except Exception as error:  # the worker's border
        text = traceback.format_exc()
        if broken_device(error):
            return TaskResult(task, error=text, lost=True)
        # what breaks the uncached model is the input's fault; what breaks under a policy is the policy's
        policys = isinstance(task.policy, Policy)
        if out_of_memory(error):
            line = f"out of memory: {_line(error)}"
            fault = None if task.policy is not None else f"{line}; lower cases.batch, or set model.offload"
            return TaskResult(task, error=text, fault=fault, infeasible=line)
        ours = isinstance(error, XSlimError) and (not policys or _of_the_request(error, task))
        return TaskResult(task, error=text, fault=str(error) if ours else None)


def _of_the_request(error: XSlimError, task: Task) -> bool:
    """Whether a candidate's scheduler cannot be used at all, which no other policy changes.

    A lesson may ask more of a request than drawing does: what it refuses runs without the lesson.
    """
    return task.kind != "learn" and isinstance(error, ConfigError) and error.key.startswith("request.")


def _value(evaluator: Evaluator, task: Task) -> Value:
    if task.kind == "profile":
        return evaluator.profile(task.cases)
    if task.kind == "probe":
        return evaluator.probe(task.cases, task.count)
    if task.kind == "baseline":
        return evaluator.baseline(task.cases, task.count)
    if task.kind == "draw":
        return evaluator.draw(task.policy, task.cases, task.sampling)
    if task.policy is None:
        raise ValueError(f"a task of the kind {task.kind} without a policy")
    if task.kind == "learn":
        if task.lesson is None or isinstance(task.policy, Preset):
            raise ValueError("a task of the kind learn without a lesson, or with a preset")
        return evaluator.learn(task.lesson, Learned(task.policy, task.sampling), task.cases)
    return evaluator.evaluate(task.policy, task.cases, task.count, task.timed_traces, task.sampling)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
        """Run the next task, however long it takes.

        Raises:
            RunBrokenError: the device broke, and this process with it.
        """
        if not self._queue or self._evaluator is None:
            return []
        result = perform(self._evaluator, self._queue.popleft())
        if result.lost:
            raise RunBrokenError(f"the device broke: {last_line(result.error)}")
        return [result]

    def close(self) -> None:
        """Forget the evaluator and what is queued."""
        self._queue.clear()
        self._evaluator = None


def last_line(text: str | None) -> str:
    """The last line of a traceback: what went wrong."""
    lines = (text or "unknown error").strip().splitlines()
    return lines[-1] if lines else "unknown error"
