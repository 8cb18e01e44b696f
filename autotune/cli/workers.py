"""Where a verb's work runs: how many workers, their threads, and the executor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from autotune.search.experiment import Experiment
from xslim.errors import ConfigError

if TYPE_CHECKING:
    from autotune.search.executor import Executor


def worker_count(experiment: Experiment, address: str | None) -> int:
    """Return how many workers were asked for: by default one for each GPU, else one.

    Those of a cluster are counted when it is joined, and more may come; here it is 1 by default.

    Raises:
        ConfigError: they need more GPUs than this machine has, or nothing listens at the address.
    """
    choice = experiment.executor
    if address is not None:
        from autotune.search.ray_cluster import check_address

        check_address(address)
        return choice.workers or 1
    import torch

    there = torch.cuda.device_count()
    each = min(1, there) if choice.gpus is None else choice.gpus
    workers = choice.workers or (max(1, there // each) if each else 1)
    if workers * each > there:
        asked = f"{workers} worker{'s' if workers > 1 else ''} with {each} GPU{'s' if each > 1 else ''} each"
        fits = there // each
        fix = f"allowed: up to {fits} workers" if fits else "set executor.gpus=0 to run on the CPU"
        key = "executor.workers" if fits else "executor.gpus"
        raise ConfigError(f"got {asked}, this machine has {there}; {fix}, or give --ray-address", key=key)
    return workers


def threads_each(workers: int) -> int:
    """CPU threads of each worker on this machine."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, available // workers)


def executor_for(experiment: Experiment, workers: int, address: str | None, threads: int | None) -> Executor:
    """Return the executor that an experiment names; an address asks for Ray."""
    choice = experiment.executor
    if choice.kind == "local" and address is None:
        from autotune.search.executor import LocalExecutor

        return LocalExecutor()
    from autotune.search.ray_executor import RayExecutor

    return RayExecutor(
        workers if address is None else choice.workers,
        address=address,
        threads_per_worker=threads,
        gpus_per_worker=choice.gpus,
        timing_device=choice.timing_device,
    )
