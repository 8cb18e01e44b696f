"""Where a verb's work runs: how many workers, their threads, and the executor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune.search.experiment import Experiment

if TYPE_CHECKING:
    from autotune.search.executor import Executor


def default_workers() -> int:
    """One for each GPU, else one."""
    import torch

    return max(1, torch.cuda.device_count())


def threads_each(workers: int) -> int:
    """CPU threads of each worker on this machine."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // workers)


def executor_for(experiment: Experiment, workers: int, address: str | None, threads: int | None) -> Executor:
    """Return the executor that an experiment names; an address asks for Ray."""
    if experiment.executor.kind == "local" and address is None:
        from autotune.search.executor import LocalExecutor

        return LocalExecutor()
    import torch

    from autotune.search.ray_executor import RayExecutor

    gpus = 1 if torch.cuda.is_available() else 0
    return RayExecutor(workers, address=address, threads_per_worker=threads, gpus_per_worker=gpus)
