"""Workers on a Ray cluster whose nodes come and go, of several kinds, and with devices that break."""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from autotune.scoring.case import Case
from autotune.scoring.doubles import FailingEvaluator, FormulaEvaluator, device_broken
from autotune.search.dispatch import Dispatcher
from autotune.search.executor import TaskResult
from autotune.search.process_state import FOLDERS, OwnedFolder, environment
from autotune.search.ray_executor import RayExecutor
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster  # noqa: TID251  (nodes for the tests)

    from autotune.scoring.evaluator import Evaluator  # loads torch, which workers shall not

pytestmark = [
    pytest.mark.ray,
    # Ray's pipes and sockets are closed by the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
CASES = (Case(3, 1), Case(4, 2))
POLICY = Policy.from_pattern("F." * 25)
LIMIT_S = 90
NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without workers and one node for two; nothing of it goes to the home folder or the network."""
    from ray.cluster_utils import Cluster  # noqa: TID251

    with tempfile.TemporaryDirectory(prefix="xsc", dir="/tmp", ignore_cleanup_errors=True) as folder:
        head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 80 * 2**20}
        Path(folder, "ray").mkdir()
        quick = {"RAY_worker_niceness": "0"}  # Ray's own 15 gets nothing done on a busy machine
        with environment({"RAY_TMPDIR": folder, "RAY_USAGE_STATS_ENABLED": "0", **quick}):
            cluster = Cluster(initialize_head=True, head_node_args=head)
            cluster.add_node(**NODE)
            yield cluster
            cluster.shutdown()


@pytest.fixture
def executor(cluster: Cluster) -> Iterator[Callable[..., RayExecutor]]:
    """Makes executors on the cluster, and closes them."""
    made: list[RayExecutor] = []

    def make(workers: int, **more: Any) -> RayExecutor:
        made.append(RayExecutor(workers, cluster.address, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def until(done: Callable[[], bool], step: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < end, "it takes too long"
        step()


def collect(dispatcher: Dispatcher, found: list[tuple[object, TaskResult]], number: int) -> None:
    until(lambda: len(found) >= number, lambda: found.extend(dispatcher.wait()))


@dataclass(frozen=True)
class SlowFactory:
    seconds: float

    def build(self) -> Evaluator:
        return FormulaEvaluator(seconds=self.seconds)


@pytest.mark.parametrize(
    "graceful",
    [True, pytest.param(False, marks=pytest.mark.slow)],  # Ray waits for missing heartbeats
    ids=["leaves", "vanishes"],
)
def test_a_cluster_grows_and_shrinks_under_a_search(
    cluster: Cluster, executor: Callable[..., RayExecutor], graceful: bool
) -> None:
    workers = executor(4)
    workers.start(SlowFactory(0.3))
    dispatcher, found = Dispatcher(workers), []  # type: ignore[var-annotated]
    for number in range(4):
        dispatcher.submit("evaluate", CASES, number, POLICY)
    collect(dispatcher, found, 4)
    assert workers.slots <= 2, "the others wait for a node, and hold up nothing"
    node = cluster.add_node(**NODE)
    until(lambda: workers.slots == 4, lambda: workers.wait(0.2))
    for number in range(4, 12):
        dispatcher.submit("evaluate", CASES, number, POLICY)
    cluster.remove_node(node, allow_graceful=graceful)
    collect(dispatcher, found, 12)
    assert sorted(tag for tag, _ in found) == list(range(12))  # type: ignore[type-var]
    assert all(result.error is None for _, result in found)
    assert max(result.task.attempt for _, result in found) == 1, "tasks of the lost node ran elsewhere"
    assert workers.slots <= 2


@dataclass(frozen=True)
class KindsFactory:
    """Each worker that starts is of the next kind.

    Attributes:
        folder: where workers say that they started.
        kinds: one a worker.
    """

    folder: str
    kinds: tuple[str, ...]

    def build(self) -> Evaluator:
        for kind, number in zip(self.kinds, range(99), strict=False):
            try:
                os.close(os.open(f"{self.folder}/{number}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            return FormulaEvaluator(seconds=0.05, device=kind)
        raise RuntimeError("more workers than kinds")


def test_latency_is_never_measured_on_two_kinds(executor: Callable[..., RayExecutor], tmp_path: Path) -> None:
    workers = executor(2)
    workers.start(KindsFactory(str(tmp_path), ("slow", "fast")))
    until(lambda: workers.slots == 2, lambda: workers.wait(0.2))
    dispatcher, found = Dispatcher(workers), []  # type: ignore[var-annotated]
    for number in range(12):
        dispatcher.submit("evaluate", CASES, number, POLICY, count=number % 2)
    collect(dispatcher, found, 12)
    assert all(result.error is None for _, result in found)
    ran = [(result.task.timed, result.device) for _, result in found]
    assert {device for timed, device in ran if timed} == {workers.timing_device}
    assert {device for timed, device in ran if not timed} >= {"slow", "fast"} - {workers.timing_device}


def test_a_kind_that_is_not_there_is_the_inputs_fault(
    executor: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    workers = executor(2, timing_device="H200")
    workers.start(KindsFactory(str(tmp_path), ("L4", "L4")))
    dispatcher = Dispatcher(workers)
    assert dispatcher.run("probe", CASES, 3).value is not None, "what is not timed runs anywhere"
    with pytest.raises(ConfigError, match="latency is measured on H200, and the workers have L4"):
        until(lambda: False, lambda: dispatcher.run("baseline", CASES, 1))


@dataclass(frozen=True)
class BreakingFactory:
    """Devices break at the first measurement of the first worker; a worker tells its process id."""

    folder: str

    def build(self) -> Evaluator:
        first = not os.listdir(self.folder)
        Path(self.folder, str(os.getpid())).touch()
        return FailingEvaluator(FormulaEvaluator(), lambda policy: first, error=device_broken)


def test_a_broken_device_ends_its_worker_and_the_task_runs_once_more(
    executor: Callable[..., RayExecutor], tmp_path: Path
) -> None:
    workers = executor(1)
    workers.start(BreakingFactory(str(tmp_path)))
    dispatcher, found = Dispatcher(workers), []  # type: ignore[var-annotated]
    dispatcher.submit("evaluate", CASES, None, POLICY)
    collect(dispatcher, found, 1)
    result = found[0][1]
    assert (result.error, result.task.attempt) == (None, 1)
    pids = {path.name for path in tmp_path.iterdir()}
    assert len(pids) == 2
    (old,) = pids - {result.worker.split("/")[1]}
    until(lambda: not Path("/proc", old).exists(), lambda: time.sleep(0.1))


class WatchingFactory:
    def build(self) -> Evaluator:
        return FormulaEvaluator(device="with torch" if "torch" in sys.modules else "without torch")


def test_a_simulated_worker_loads_no_torch(executor: Callable[..., RayExecutor]) -> None:
    workers = executor(1)
    workers.start(WatchingFactory())
    assert Dispatcher(workers).run("baseline", CASES, 1).device == "without torch"


def test_an_owned_folder_goes_with_its_process_and_a_killed_ones_with_the_next() -> None:
    held = OwnedFolder()
    left = Path(tempfile.mkdtemp(prefix=FOLDERS, dir=held.path.parent))
    (left / ".owner").touch()
    made = Path(tempfile.mkdtemp(prefix=FOLDERS, dir=held.path.parent))  # by a process that is just starting
    try:
        other = OwnedFolder()
        assert not left.exists()
        assert held.path.exists()
        assert made.exists()
        with (held.path / ".owner").open("r+") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.remove()
        assert not other.path.exists()
    finally:
        held.remove()
        made.rmdir()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "rubbish", "no.such.host.invalid:6379"])
def test_an_address_without_a_cluster_is_told_at_once(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"no Ray cluster at {address}"):
        RayExecutor(1, address).start(SlowFactory(0.0))
    assert time.monotonic() - began < 30
