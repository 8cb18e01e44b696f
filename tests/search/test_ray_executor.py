"""RayExecutor on a real local Ray: dying workers, failing starts, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autotune.scoring.doubles import FormulaEvaluator
from autotune.search.executor import Task
from autotune.search.ray_executor import START_ATTEMPTS, RayExecutor
from tests.search.test_executor import BAD, CASES, GOOD, Factory, MistypedFactory, collect
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

if TYPE_CHECKING:
    from autotune.scoring.evaluator import Evaluator  # loads torch, which workers shall not

pytestmark = [
    pytest.mark.ray,
    # Ray's pipes and sockets are closed by the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@dataclass(frozen=True)
class BreakingFactory:
    """Leaves a file each time a worker starts; the first starts fail.

    Attributes:
        folder: where the files go.
        failures: how many starts fail.
        dies: whether they take the process along.
    """

    folder: str
    failures: int
    dies: bool = False

    def build(self) -> Evaluator:
        started = len(os.listdir(self.folder))
        Path(self.folder, f"{os.getpid()}-{os.environ['OMP_NUM_THREADS']}").touch()
        if started < self.failures:
            if self.dies:
                os._exit(1)
            raise RuntimeError("not yet")
        return FormulaEvaluator()


class SlowFactory:
    """Builds an evaluator that takes its time."""

    def build(self) -> Evaluator:
        return SlowEvaluator()


class SlowEvaluator(FormulaEvaluator):
    def actions(self, policy: Policy) -> str:
        time.sleep(1.5)
        return super().actions(policy)


@pytest.fixture(scope="module")
def ray_running() -> Iterator[None]:
    """Ray itself, which starts once; later executors find it and leave it running."""
    first = RayExecutor(3)
    first._cluster.open(3)
    yield
    first.close()


@pytest.fixture
def executor(ray_running: None) -> Iterator[RayExecutor]:
    executor = RayExecutor(1, threads_per_worker=3)
    yield executor
    executor.close()


def test_a_worker_that_dies_loses_its_task_only(executor: RayExecutor) -> None:
    executor.start(Factory(kill=True))
    executor.submit(Task(0, "evaluate", CASES, BAD))
    executor.submit(Task(1, "evaluate", CASES, GOOD))
    results = collect(executor, 2)
    assert results[0].lost
    assert "the worker died" in str(results[0].error)
    assert (results[1].lost, results[1].error) == (False, None)


def test_a_killed_process_is_replaced(executor: RayExecutor, tmp_path: Path) -> None:
    executor.start(BreakingFactory(str(tmp_path), 0))
    executor.submit(Task(0, "evaluate", CASES, GOOD))
    assert collect(executor, 1)[0].error is None
    (mark,) = tmp_path.iterdir()
    pid, threads = map(int, mark.name.split("-"))
    assert threads == 3
    os.kill(pid, signal.SIGKILL)
    for number in (1, 2):
        executor.submit(Task(number, "evaluate", CASES, GOOD))
    results = collect(executor, 2)
    assert (results[1].lost, results[2].lost) == (True, False)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_input_at_fault_is_one_line_and_not_tried_again(executor: RayExecutor) -> None:
    executor.start(MistypedFactory())
    for number in range(2):
        executor.submit(Task(number, "evaluate", CASES, GOOD))
    results = collect(executor, 2)
    assert {str(result.fault) for result in results.values()} == {
        str(ConfigError("no such folder", key="model.path"))
    }
    assert not results[0].lost
    executor.submit(Task(2, "evaluate", CASES, GOOD))
    assert collect(executor, 1)[2].fault is not None, "a broken executor answers, it does not hang"


def test_a_start_that_fails_is_tried_again(executor: RayExecutor, tmp_path: Path) -> None:
    executor.start(BreakingFactory(str(tmp_path), 1))
    executor.submit(Task(0, "evaluate", CASES, GOOD))
    assert collect(executor, 1)[0].error is None
    assert len(list(tmp_path.iterdir())) == 2


def test_a_worker_that_never_starts_is_given_up(executor: RayExecutor, tmp_path: Path) -> None:
    executor.start(BreakingFactory(str(tmp_path), 99, dies=True))
    executor.submit(Task(0, "evaluate", CASES, GOOD))
    result = collect(executor, 1)[0]
    assert "did not start" in str(result.error)
    assert (result.lost, result.fault) == (False, None)
    assert len(list(tmp_path.iterdir())) == START_ATTEMPTS


def test_too_few_gpus_is_an_error(ray_running: None) -> None:
    executor = RayExecutor(64, gpus_per_worker=1)
    with pytest.raises(ConfigError, match="64 workers need 64 GPUs"):
        executor.start(Factory())
    with pytest.raises(ConfigError, match="1 or more"):
        RayExecutor(0)


SCRIPT = """
import os, signal, sys, time
from tests.search.test_executor import CASES, GOOD, Factory, collect
from tests.search.test_ray_executor import SlowFactory
from autotune.search.executor import Task
from autotune.search.ray_executor import RayExecutor

def mine():
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(pid)) == os.getpid():
                found.add(int(pid))
        except OSError:
            pass
    return found

signal.signal(signal.SIGINT, lambda *_: print("interrupted"))
drain = lambda *_: print("drain")
signal.signal(signal.SIGTERM, drain)
address = sys.argv[1] or None
executor = RayExecutor(1, address)
executor.start(SlowFactory())
assert signal.getsignal(signal.SIGTERM) is drain
executor.submit(Task(0, "baseline", CASES))
collect(executor, 1)
executor.submit(Task(1, "evaluate", CASES, GOOD))
time.sleep(0.5)
os.killpg(0, signal.SIGINT)
result = collect(executor, 1)[1]
assert result.error is None, result
assert address or len(mine()) > 3, mine()
folder = executor._cluster._folder.path if executor._cluster._folder else ""
executor.close()
assert not os.path.exists(folder)
print("closed")
"""


def session(pid: int) -> set[int]:
    """The processes of a session."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.getsid(int(name)) == pid:
                found.add(int(name))
        except OSError:
            continue
    return found


def run_script(home: Path, address: str) -> int:
    """Run a driver from another folder in a session of its own."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(root)}
    if not address:
        environment = {k: v for k, v in environment.items() if not k.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, address],
        # the workers of a cluster have what is installed there, or in the folder the driver runs in
        cwd=root if address else tempfile.gettempdir(),
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    output, errors = driver.communicate(timeout=100)
    assert driver.returncode == 0, errors
    assert output.split() == ["interrupted", "closed"]
    assert errors == ""
    return driver.pid


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="reads /proc")
def test_a_ray_of_our_own_leaves_nothing_behind(tmp_path: Path) -> None:
    pid = run_script(tmp_path, "")
    end = time.monotonic() + 10
    while session(pid):
        assert time.monotonic() < end, "processes are left"
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == [], "Ray wrote to the home folder"


def test_a_cluster_is_joined_and_left_running(executor: RayExecutor, tmp_path: Path) -> None:
    import ray  # noqa: TID251  (asks for the address of the Ray that is running)

    run_script(tmp_path, ray.get_runtime_context().gcs_address)
    assert list(tmp_path.iterdir()) == []
    executor.start(Factory())
    executor.submit(Task(0, "evaluate", CASES, GOOD))
    assert collect(executor, 1)[0].error is None
