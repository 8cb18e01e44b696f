"""Runs tasks on Ray actors, the only file that imports ray.

Core actors, not Ray Tune: a search needs processes that load a pipeline once and tell when they die, nothing
else. A task is sent at most once; whether a lost one is sent again is up to the driver.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import tempfile
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.search.executor import EvaluatorFactory, Task, TaskResult, perform
from autotune.search.process_state import environment, sigterm_kept
from xslim.errors import ConfigError, XSlimError

if TYPE_CHECKING:
    from ray import ObjectRef

    from autotune.scoring.evaluator import Evaluator

log = logging.getLogger(__name__)

START_ATTEMPTS = 3  # failed starts in a row after which a worker is given up
OBJECT_STORE_BYTES = 128 * 2**20  # rows and features of a few hundred cases; pictures stay on disk
SOCKET_ROOM = 24  # characters; Ray appends about 70, and the path of a socket has at most 107


class RayExecutor:
    """Runs tasks on workers of a Ray of our own, or of a cluster.

    A Ray of our own keeps its files in a temporary folder, asks for a token that only its processes know, and
    ends with `close`. Ctrl-C in a terminal does not reach its workers (Ray blocks SIGINT in what it starts),
    so the driver can drain; a signal sent to the whole process group does.

    Args:
        workers: how many tasks run at once.
        address: a cluster's address, or None to start Ray here. Its nodes have this package installed.
        threads_per_worker: CPU threads of a worker; None shares this machine's cores, and on a cluster is 1.
        gpus_per_worker: GPUs of a worker; whole ones, or latencies disturb each other.
    """

    def __init__(
        self,
        workers: int,
        address: str | None = None,
        threads_per_worker: int | None = None,
        gpus_per_worker: float = 0.0,
    ) -> None:
        if workers < 1:
            raise ConfigError(f"got {workers}; allowed: 1 or more", key="executor.workers")
        self._workers, self._address, self._gpus = workers, address, gpus_per_worker
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = threads_per_worker or (1 if address else max(1, cores // workers))
        # PyTorch, MKL and OpenBLAS follow it when they are loaded; Ray alone would set 1
        self._environment = {"OMP_NUM_THREADS": str(self._threads)}
        self._queue: deque[Task] = deque()
        self._slots: list[_Slot] = []
        self._broken: _Loaded | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._owned = False

    @property
    def slots(self) -> int:
        """How many workers are left; at least one, which tells why there are none."""
        return max(1, len(self._slots))

    def start(self, factory: EvaluatorFactory) -> None:
        """Start Ray, or connect, and let the workers load; does not wait for them.

        Raises:
            ConfigError: there is no such cluster, or no such GPU here.
        """
        import ray

        if not ray.is_initialized():
            self._connect()
        self._check_resources()
        ours = self._folder is not None
        remote = ray.remote(_Worker).options(
            num_cpus=1 if ours else self._threads,
            num_gpus=self._gpus,
            max_restarts=0,
            max_task_retries=0,
            # a process of our own Ray has it already; asking again would start another process
            runtime_env=None if ours else {"env_vars": self._environment},
        )
        factory_ref = ray.put(factory)
        self._broken = None
        self._slots = [_Slot(remote, factory_ref) for _ in range(self._workers)]

    def submit(self, task: Task) -> None:
        """Queue a task; it is sent when a worker is free."""
        self._queue.append(task)
        self._dispatch()

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        """Return results that are ready, after at most so many seconds; may be empty."""
        import ray

        slots = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        results: list[TaskResult] = []
        if slots:
            ready, _ = ray.wait(list(slots), num_returns=1, timeout=max(0.0, timeout_s))
            if ready:
                ready, _ = ray.wait(list(slots), num_returns=len(slots), timeout=0)
            results += [done for ref in ready if (done := self._collect(slots[ref], ref)) is not None]
        self._dispatch()
        if not self._slots and self._broken is not None:
            error, fault = self._broken.error, self._broken.fault
            results += [TaskResult(task, error=error, fault=fault) for task in self._queue]
            self._queue.clear()
        return results

    def close(self) -> None:
        """Stop the workers, and Ray when it is ours; tasks in flight are dropped."""
        self._queue.clear()
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.kill()
        if self._owned:
            import ray

            ray.shutdown()
            self._owned = False
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _collect(self, slot: _Slot, ref: ObjectRef[Any]) -> TaskResult | None:
        """Take what a slot's reference holds; None when it was a start."""
        if slot.task is None:
            loaded = slot.loaded(ref)
            if loaded.fault is not None or slot.failures >= START_ATTEMPTS:
                log.error("a worker does not start and is given up: %s", loaded.fault or loaded.error)
                self._broken = loaded
                slot.kill()
                self._slots.remove(slot)
            return None
        return slot.result(ref, slot.task)

    def _dispatch(self) -> None:
        for slot in self._slots:
            if slot.ref is None and self._queue:
                slot.send(self._queue.popleft())

    def _connect(self) -> None:
        import ray

        self._owned = True
        try:
            if self._address is None:
                self._start_here()
                return
            with sigterm_kept(), environment({"RAY_USAGE_STATS_ENABLED": "0"}):
                ray.init(address=self._address, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            self.close()
            if self._address is None:
                raise
            line = str(error).strip().partition("\n")[0]
            raise ConfigError(f"no Ray cluster at {self._address}: {line}", key="executor.address") from error

    def _start_here(self) -> None:
        import ray

        root = tempfile.gettempdir()
        short = "/tmp" if len(root) > SOCKET_ROOM and os.path.isdir("/tmp") else root
        self._folder = tempfile.TemporaryDirectory(prefix="xs", dir=short, ignore_cleanup_errors=True)
        # Ray's ports are open to the network, so it gets a token; left to itself it would write one to the
        # user's home folder. It stays set, because Ray reads it once in a process.
        if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
            os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        inherited = {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_worker_niceness": "0",  # Ray's own 15 leaves the measured work behind everything else
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default; silences a warning
            **self._environment,
        }
        with sigterm_kept(), environment(inherited):
            ray.init(
                address="local",
                num_cpus=self._workers,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=OBJECT_STORE_BYTES,
                _temp_dir=self._folder.name,
            )

    def _check_resources(self) -> None:
        import ray

        gpus = float(ray.cluster_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]
        needed = self._gpus * self._workers
        if gpus >= needed:
            return
        if self._address is None:
            self.close()
            raise ConfigError(
                f"{self._workers} workers need {needed:g} GPUs, this machine has {gpus:g}; take fewer",
                key="executor.workers",
            )
        log.warning(
            "the cluster has %g GPUs, the workers need %g: some wait until there are more", gpus, needed
        )


@dataclass(frozen=True, slots=True)
class _Loaded:
    """How a worker's start went."""

    error: str | None = None
    fault: str | None = None


class _Worker:
    """What runs in the actor."""

    def __init__(self) -> None:
        self._evaluator: Evaluator | None = None

    def load(self, factory: EvaluatorFactory) -> _Loaded:
        """Build the evaluator."""
        try:
            self._evaluator = factory.build()
        except XSlimError as error:
            return _Loaded(traceback.format_exc(), str(error))
        except Exception:  # the worker's border
            return _Loaded(traceback.format_exc())
        return _Loaded()

    def run(self, task: Task) -> TaskResult:
        """Run a task."""
        if self._evaluator is None:
            return TaskResult(task, error="the worker has no evaluator")
        return perform(self._evaluator, task)


class _Slot:
    """A place for a worker: its actor and, as `ref`, what it does: a task, or a start when `task` is None."""

    def __init__(self, remote: Any, factory: ObjectRef[EvaluatorFactory]) -> None:
        self._remote, self._factory = remote, factory
        self.failures = 0
        self._begin()

    def _begin(self) -> None:
        self._actor = self._remote.remote()
        self.task: Task | None = None
        self.ref: ObjectRef[Any] | None = self._actor.load.remote(self._factory)

    def send(self, task: Task) -> None:
        """Give the idle worker a task."""
        self.task, self.ref = task, self._actor.run.remote(task)

    def loaded(self, ref: ObjectRef[Any]) -> _Loaded:
        """Take the outcome of the start; a failed one begins anew."""
        import ray

        try:
            outcome: _Loaded = ray.get(ref)
        except ray.exceptions.RayError as error:
            outcome = _Loaded(f"the worker did not start: {error}")
        self.ref = None
        if outcome.error is None:
            self.failures = 0
            return outcome
        self.failures += 1
        if outcome.fault is None and self.failures < START_ATTEMPTS:
            log.warning("a worker failed to start, trying again: %s", outcome.error)
            self.kill()
            self._begin()
        return outcome

    def result(self, ref: ObjectRef[Any], task: Task) -> TaskResult:
        """Take the result of the task; a dead worker is replaced."""
        import ray

        try:
            outcome: TaskResult = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # raised outside `perform`; the worker is well
            outcome = TaskResult(task, error=str(error))
        except ray.exceptions.RayError as error:
            log.warning("a worker died during task %d and is replaced", task.id)
            outcome = TaskResult(task, error=f"the worker died: {error}", lost=True)
            self.kill()
            self._begin()
            return outcome
        self.task, self.ref = None, None
        return outcome

    def kill(self) -> None:
        """End the worker's process."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._actor, no_restart=True)
