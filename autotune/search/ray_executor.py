"""Runs tasks on Ray actors.

Core actors, not Ray Tune: a search needs processes that load a pipeline once and tell when they die, nothing
else. A task is sent at most once; whether a lost one is sent again is up to the driver.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autotune.search.executor import EvaluatorFactory, Task, TaskResult
from autotune.search.ray_cluster import RayCluster
from autotune.search.ray_worker import START_ATTEMPTS, Loaded, Slot, Worker
from autotune.search.task_queue import TaskQueue
from xslim.errors import ConfigError

if TYPE_CHECKING:
    from ray import ObjectRef

__all__ = ["START_ATTEMPTS", "RayExecutor"]

log = logging.getLogger(__name__)
PATIENCE_S = 60.0  # without a worker, after which the user is told


class RayExecutor:
    """Runs tasks on workers of a Ray of our own, or of a cluster.

    On a cluster the workers that have no room yet keep waiting, which makes an autoscaler add nodes; those
    that have loaded work on. When a node goes, its tasks come back as lost and its workers wait again.

    Args:
        workers: how many tasks run at once; None, on a cluster, is one for each GPU it has, else 1.
        address: a cluster's address, or None to start Ray here. Its nodes have this package installed.
        threads_per_worker: CPU threads of a worker; None shares this machine's cores, and on a cluster is 1.
        gpus_per_worker: GPUs of a worker, or latencies disturb each other; None is 1 where there are any.
        timing_device: the only kind of device that latency is measured on; None is the commonest.
    """

    def __init__(
        self,
        workers: int | None,
        address: str | None = None,
        threads_per_worker: int | None = None,
        gpus_per_worker: int | None = 0,
        timing_device: str | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise ConfigError(f"got {workers}; allowed: 1 or more", key="executor.workers")
        self._wanted, self._gpus = workers, gpus_per_worker
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._threads = threads_per_worker or (1 if address else max(1, cores // (workers or 1)))
        # PyTorch, MKL and OpenBLAS follow it when they are loaded; Ray alone would set 1
        self._environment = {"OMP_NUM_THREADS": str(self._threads)}
        self._cluster = RayCluster(address, self._environment)
        self._queue = TaskQueue(timing_device)
        self._slots: list[Slot] = []
        self._done: list[TaskResult] = []
        self._seen: set[str] = set()
        self._broken: Loaded | None = None
        self._worked = time.monotonic()

    @property
    def slots(self) -> int:
        """How many workers have loaded; at least one, so that a task waits for the first."""
        return max(1, sum(slot.device != "" for slot in self._slots))

    @property
    def timing_device(self) -> str | None:
        """The kind of device that latency is measured on; None until the first timed task is sent."""
        return self._queue.timing_device

    def start(self, factory: EvaluatorFactory) -> None:
        """Start Ray, or connect, and let the workers load; does not wait for them.

        Raises:
            ConfigError: there is no such cluster, or there are fewer GPUs here than asked for.
        """
        import ray

        self._cluster.open(self._wanted or 1)
        workers, gpus = self._sizes()
        ours = self._cluster.ours
        remote = ray.remote(Worker).options(
            num_cpus=1 if ours else self._threads,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            # a process of our own Ray has it already; asking again would start another process
            runtime_env=None if ours else {"env_vars": self._environment},
        )
        factory_ref = ray.put(factory)
        self._broken, self._worked = None, time.monotonic()
        self._slots = [Slot(remote, factory_ref) for _ in range(workers)]

    def submit(self, task: Task) -> None:
        """Queue a task; it is sent when a worker is free."""
        self._queue.put(task)
        self._turn(0.0)  # what finished meanwhile makes room, so that no worker waits for the driver

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        """Return results that are ready, after at most so many seconds; may be empty."""
        self._turn(0.0 if self._done else timeout_s)
        self._give_up()
        results, self._done = self._done, []
        return results

    def close(self) -> None:
        """Stop the workers, and Ray when it is ours; tasks in flight are dropped."""
        self._queue.clear()
        self._done.clear()
        slots, self._slots = self._slots, []
        for slot in slots:
            slot.kill()
        self._cluster.close()

    def _turn(self, timeout_s: float) -> None:
        """Collect what is ready and send what waits; returns after the first event, or so many seconds."""
        import ray

        resting = [slot.wake() for slot in self._slots]
        busy = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        if busy:
            ready, _ = ray.wait(list(busy), num_returns=1, timeout=timeout_s)
            if ready:
                ready, _ = ray.wait(list(busy), num_returns=len(busy), timeout=0)
            for ref in ready:
                self._collect(busy[ref], ref)
        elif any(resting):
            time.sleep(min(timeout_s, 0.1))
        self._send()

    def _collect(self, slot: Slot, ref: ObjectRef[Any]) -> None:
        """Take what a slot has done."""
        if slot.task is not None:
            self._done.append(slot.result(ref, slot.task))
            return
        loaded = slot.loaded(ref)
        self._seen.add(slot.device)
        if loaded.fault is not None or slot.failures >= START_ATTEMPTS:
            log.error("a worker does not start and is given up: %s", loaded.fault or loaded.error)
            self._broken = loaded
            self._slots.remove(slot)

    def _send(self) -> None:
        if not len(self._queue):
            return
        self._queue.choose([slot.device for slot in self._slots if slot.device])
        free = [slot for slot in self._slots if slot.free]
        # those that may not measure latency choose first: the others can take what is left
        for slot in sorted(free, key=lambda slot: slot.device == self.timing_device):
            task = self._queue.take(slot.device)
            if task is not None:
                slot.send(task)

    def _give_up(self) -> None:
        """Answer tasks that no worker will ever run; tell of those that wait for long."""
        busy = any(slot.task is not None for slot in self._slots)
        if busy or self._done or not len(self._queue):
            self._worked = time.monotonic()
            return
        error, fault = self._hopeless()
        if error is not None:
            self._done += [TaskResult(task, error=error, fault=fault) for task in self._queue.clear()]
        elif time.monotonic() - self._worked > PATIENCE_S:
            self._worked = time.monotonic()
            have = ", ".join(
                f"{n:g} {name}" for name, n in sorted(self._cluster.resources().items()) if n < 1e6
            )
            log.warning(
                "%d tasks wait and no worker can take one; the cluster has %s", len(self._queue), have
            )

    def _hopeless(self) -> tuple[str | None, str | None]:
        """Why the tasks that wait will never run, and whose fault it is; None when they may."""
        if not self._slots and self._broken is not None:
            return self._broken.error, self._broken.fault
        devices = sorted({slot.device for slot in self._slots})
        if "" in devices or self.timing_device is None or self.timing_device in self._seen:
            return None, None  # such a worker may come, or come back
        found = ", ".join(devices)
        fault = (
            f"executor.timing_device: latency is measured on {self.timing_device}, and the workers have "
            f"{found}; add such a node, or start a search of its own for them"
        )
        return fault, fault

    def _sizes(self) -> tuple[int, int]:
        """Return workers and GPUs of each, by what is there."""
        has: dict[str, Any] = self._cluster.resources()
        there = int(has.get("GPU", 0))
        gpus = min(1, there) if self._gpus is None else self._gpus
        workers = self._wanted or (max(1, there // gpus) if gpus else 1)
        if gpus * workers > there:
            if self._cluster.address is None:
                self.close()
                raise ConfigError(
                    f"{workers} workers need {workers * gpus} GPUs, this machine has {there}; take fewer",
                    key="executor.workers",
                )
            log.warning(
                "the cluster has %d GPUs, the workers need %d: some wait until there are more",
                there,
                gpus * workers,
            )
        return workers, gpus
