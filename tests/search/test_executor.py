"""Every executor keeps the same contract."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from autotune.scoring.case import Case
from autotune.scoring.doubles import FailingEvaluator, FormulaEvaluator
from autotune.scoring.measurement import Measurement
from autotune.scoring.profile import Profile
from autotune.search.executor import Executor, LocalExecutor, Task, TaskResult
from autotune.search.ray_executor import RayExecutor
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

if TYPE_CHECKING:
    from autotune.scoring.evaluator import Evaluator  # loads torch, which workers shall not

# Ray's pipes and sockets are closed by the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CASES = (Case(3, 1), Case(4, 2))
GOOD, BAD = Policy.from_pattern("F." * 25), Policy.from_pattern("F" * 50)


def is_bad(policy: Policy) -> bool:
    return policy == BAD


@dataclass(frozen=True)
class Factory:
    kill: bool = False

    def build(self) -> Evaluator:
        return FailingEvaluator(FormulaEvaluator(), is_bad, kill=self.kill)


class MistypedFactory:
    """Refuses to build whatever the evaluator's input."""

    def build(self) -> Evaluator:
        raise ConfigError("no such folder", key="model.path")


def collect(executor: Executor, count: int, limit_s: float = 60) -> dict[int, TaskResult]:
    """Wait until so many results are in."""
    results: dict[int, TaskResult] = {}
    end = time.monotonic() + limit_s
    while len(results) < count:
        assert time.monotonic() < end, f"only {sorted(results)} came back"
        for result in executor.wait(1.0):
            assert result.task.id not in results, "a result came back twice"
            results[result.task.id] = result
    return results


@pytest.fixture(
    scope="module",
    params=[LocalExecutor, pytest.param(lambda: RayExecutor(2), marks=pytest.mark.ray)],
    ids=["local", "ray"],
)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    make: Callable[[], Executor] = request.param
    executor = make()
    executor.start(Factory())
    yield executor
    executor.close()
    executor.close()


def test_nothing_submitted_nothing_returned(executor: Executor) -> None:
    assert executor.slots >= 1
    assert list(executor.wait(0.0)) == []


def test_each_kind_of_task_comes_back_with_its_value(executor: Executor) -> None:
    tasks = [
        Task(0, "evaluate", CASES, GOOD),
        Task(1, "baseline", CASES),
        Task(2, "profile", CASES),
    ]
    for task in tasks:
        executor.submit(task)
    results = collect(executor, 3)
    assert [results[i].task for i in range(3)] == tasks
    assert all(result.error is None and not result.lost for result in results.values())
    assert isinstance(results[0].value, Measurement)
    assert results[0].value.quality.actions == "F." * 25
    assert isinstance(results[1].value, Measurement)
    assert isinstance(results[2].value, Profile)


def test_more_tasks_than_slots(executor: Executor) -> None:
    for number in range(9):
        executor.submit(Task(number, "evaluate", CASES, GOOD))
    assert sorted(collect(executor, 9)) == list(range(9))


def test_an_exception_is_a_result_and_the_worker_goes_on(executor: Executor) -> None:
    executor.submit(Task(0, "evaluate", CASES, BAD))
    executor.submit(Task(1, "evaluate", CASES, GOOD))
    results = collect(executor, 2)
    assert "failing on purpose" in str(results[0].error)
    assert (results[0].value, results[0].lost, results[0].fault) == (None, False, None)
    assert results[1].error is None


def test_an_evaluate_task_needs_a_policy(executor: Executor) -> None:
    executor.submit(Task(0, "evaluate", CASES))
    assert "without a policy" in str(collect(executor, 1)[0].error)
