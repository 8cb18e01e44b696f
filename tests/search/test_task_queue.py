"""Which task a worker gets, and what a driver does with results that come late."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from autotune.scoring.case import Case
from autotune.scoring.doubles import FailingEvaluator, FormulaEvaluator, device_broken, device_full
from autotune.search.device_errors import broken_device, out_of_memory
from autotune.search.dispatch import Dispatcher
from autotune.search.executor import (
    EvaluatorFactory,
    LocalExecutor,
    RunBrokenError,
    Task,
    TaskResult,
    perform,
)
from autotune.search.task_queue import TaskQueue
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

CASES = (Case(3, 1),)
POLICY = Policy.from_pattern("F." * 25)


def timed(number: int) -> Task:
    return Task(number, "evaluate", CASES, POLICY, count=1)


def untimed(number: int) -> Task:
    return Task(number, "evaluate", CASES, POLICY, count=0)


def test_timed_tasks_go_to_the_commonest_kind_and_to_no_other() -> None:
    queue = TaskQueue()
    for task in (untimed(0), timed(1), untimed(2), timed(3)):
        queue.put(task)
    queue.choose(["slow", "fast", "fast"])
    assert queue.timing_device == "fast"
    assert [queue.take("slow"), queue.take("slow"), queue.take("slow")] == [untimed(0), untimed(2), None]
    queue.choose(["slow", "slow", "slow", "fast"])
    assert queue.timing_device == "fast", "what is compared stays on one kind"
    assert [queue.take("fast"), queue.take("fast"), queue.take("fast")] == [timed(1), timed(3), None]


def test_no_kind_is_chosen_for_tasks_that_are_not_timed() -> None:
    queue = TaskQueue()
    for number, kind in enumerate(("profile", "probe")):
        queue.put(Task(number, kind, CASES))  # type: ignore[arg-type]
    queue.put(untimed(2))
    queue.choose(["slow"])
    assert queue.timing_device is None
    queue.put(Task(3, "baseline", CASES))
    queue.choose(["slow", "fast", "fast"])
    assert queue.timing_device == "fast"


def test_what_is_sent_again_goes_first() -> None:
    queue = TaskQueue("any")
    again = Task(7, "evaluate", CASES, POLICY, attempt=1)
    for task in (timed(1), again):
        queue.put(task)
    assert queue.take("any") == again
    assert queue.clear() == [timed(1)]


class LateExecutor:
    """Answers what it is told to."""

    def __init__(self) -> None:
        self.answers: list[list[TaskResult]] = []
        self.submitted: list[Task] = []

    slots = 1

    def start(self, factory: EvaluatorFactory) -> None: ...

    def submit(self, task: Task) -> None:
        self.submitted.append(task)

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        return self.answers.pop(0)

    def close(self) -> None: ...


def test_a_result_of_an_attempt_given_up_is_dropped() -> None:
    executor = LateExecutor()
    dispatcher = Dispatcher(executor)
    dispatcher.submit("probe", CASES, "tag", count=3)
    (first,) = executor.submitted
    executor.answers = [[TaskResult(first, lost=True, error="gone")]]
    assert dispatcher.wait() == []
    again = executor.submitted[1]
    assert (again.id, again.attempt) == (first.id, 1)
    # the first worker was only out of reach, and its result arrives before and after the second's
    early, right = TaskResult(first, 1.0), TaskResult(again, 2.0)
    executor.answers = [[early], [right, early], [right]]
    assert dispatcher.wait() == []
    assert dispatcher.flying == 1
    assert dispatcher.wait() == [("tag", right)]
    assert dispatcher.wait() == []
    assert dispatcher.flying == 0


@pytest.mark.parametrize(
    ("slots", "flying", "free"),
    [(1, 0, 1), (1, 1, 0), (3, 3, 0), (4, 4, 1), (64, 0, 80), (64, 79, 1)],
)
def test_asks_go_ahead_of_many_workers_and_not_of_one(slots: int, flying: int, free: int) -> None:
    executor = LateExecutor()
    executor.slots = slots
    dispatcher = Dispatcher(executor)
    for _ in range(flying):
        dispatcher.submit("probe", CASES)
    assert dispatcher.free == free


class Flaky(FormulaEvaluator):
    """Full at the first so many measurements."""

    left = 0

    def actions(self, policy: Policy) -> str:
        if Flaky.left:
            Flaky.left -= 1
            raise device_full()
        return super().actions(policy)


def test_want_of_memory_is_tried_again_and_then_infeasible() -> None:
    Flaky.left = 1
    assert perform(Flaky(), timed(0)).error is None
    Flaky.left = 2
    result = perform(Flaky(), timed(0))
    assert result.infeasible == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB."
    assert (result.value, result.lost, result.fault, result.device) == (None, False, None, "formula")
    Flaky.left = 2
    fault = perform(Flaky(), Task(0, "baseline", CASES)).fault
    assert fault is not None
    assert "lower cases.batch" in fault, "a model that does not fit without caching is the input's fault"


def test_a_broken_device_ends_a_search_in_one_process() -> None:
    class Factory:
        def build(self) -> FailingEvaluator:
            return FailingEvaluator(FormulaEvaluator(), lambda policy: True, error=device_broken)

    executor = LocalExecutor()
    executor.start(Factory())
    executor.submit(timed(0))
    with pytest.raises(RunBrokenError, match="illegal memory access"):
        executor.wait(1.0)


@pytest.mark.parametrize(
    ("error", "broken", "full"),
    [
        (RuntimeError("CUDA error: device-side assert triggered"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), True, False),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True, False),
        (RuntimeError("NCCL error in: somewhere"), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),  # not the allocator's: the context is lost
        (device_full(), False, True),
        (RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), False, False),
        (ConfigError("CUDA error is no class of ours"), False, False),
    ],
)
def test_errors_of_a_device(error: Exception, broken: bool, full: bool) -> None:
    assert (broken_device(error), out_of_memory(error)) == (broken, full)
    wrapped = ValueError("while drawing")
    wrapped.__cause__ = error
    assert (broken_device(wrapped), out_of_memory(wrapped)) == (broken, full)


def test_pytorchs_own_classes_are_known() -> None:
    import torch

    assert broken_device(torch.AcceleratorError("what it says may change"))
    mixed = torch.OutOfMemoryError("CUDA out of memory")
    mixed.__cause__ = RuntimeError("CUDA error: unspecified launch failure")
    assert not out_of_memory(mixed)
