"""A worker on Ray: what runs in the actor, and the driver's side of it."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import time
import traceback
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.search.executor import EvaluatorFactory, Task, TaskResult, last_line, perform
from xslim.errors import XSlimError

if TYPE_CHECKING:
    from ray import ObjectRef

    from autotune.scoring.evaluator import Evaluator

log = logging.getLogger(__name__)

START_ATTEMPTS = 3  # failed starts in a row after which a worker is given up
# a GPU may still hold the memory of the process before (ray#26118); doubled at each failure in a row
REST_S = 0.5
NODE_DIED = re.compile(r"\bnode (has died|was terminated)")  # Ray's words


@dataclass(frozen=True, slots=True)
class Loaded:
    """How a worker's start went.

    Attributes:
        error: traceback, or what happened to the process; None when it is ready.
        fault: one line when the input is at fault.
        node_died: its node went away, which is not the worker's failure.
        device: as `Evaluator.device`.
        worker: name of the process.
    """

    error: str | None = None
    fault: str | None = None
    node_died: bool = False
    device: str = ""
    worker: str = ""


class Worker:
    """What runs in the actor: an evaluator, built once."""

    def __init__(self) -> None:
        self._evaluator: Evaluator | None = None
        self._name = f"{socket.gethostname()}/{os.getpid()}/{secrets.token_hex(4)}"

    def load(self, factory: EvaluatorFactory) -> Loaded:
        """Build the evaluator."""
        try:
            self._evaluator = factory.build()
            return Loaded(device=self._evaluator.device, worker=self._name)
        except XSlimError as error:
            return Loaded(traceback.format_exc(), str(error))
        except Exception:  # the worker's border
            return Loaded(traceback.format_exc())

    def run(self, task: Task) -> TaskResult:
        """Run a task."""
        if self._evaluator is None:
            return TaskResult(task, error="the worker has no evaluator")
        return replace(perform(self._evaluator, task), worker=self._name)


class Slot:
    """A place for a worker, filled again when its worker dies.

    Attributes:
        ref: what the worker does, a task or its start; None when it rests or is free.
        task: the task it runs.
        device: kind of device; "" until it has loaded.
        failures: failed starts in a row.
    """

    def __init__(self, remote: Any, factory: ObjectRef[EvaluatorFactory]) -> None:
        self._remote, self._factory = remote, factory
        self._rest_until = 0.0
        self.failures = 0
        self.begin()

    @property
    def free(self) -> bool:
        """Whether it may be given a task."""
        return self.ref is None and self.device != ""

    def begin(self) -> None:
        """Start a worker; until the cluster has room for it, Ray keeps it waiting and asks for nodes."""
        self._actor = self._remote.remote()
        self.task: Task | None = None
        self.device, self.worker = "", ""
        self.ref: ObjectRef[Any] | None = self._actor.load.remote(self._factory)

    def wake(self) -> bool:
        """Start a worker when a rest after a failed start is over; return whether it still rests."""
        if self.ref is not None or self.device:
            return False
        if time.monotonic() < self._rest_until:
            return True
        self.begin()
        return False

    def send(self, task: Task) -> None:
        """Give the free worker a task."""
        self.task, self.ref = task, self._actor.run.remote(task)

    def loaded(self, ref: ObjectRef[Any]) -> Loaded:
        """Take the outcome of the start; after a failed one it rests, then starts anew."""
        import ray

        try:
            outcome: Loaded = ray.get(ref)
        except ray.exceptions.RayError as error:
            outcome = Loaded(
                f"the worker did not start: {_cause(error)}",
                node_died=NODE_DIED.search(str(error)) is not None,
            )
        self.ref = None
        if outcome.error is None:
            self.failures = 0
            self.device, self.worker = outcome.device or "unknown", outcome.worker
            return outcome
        self.kill()
        if not outcome.node_died:
            self.failures += 1
            self._rest_until = time.monotonic() + REST_S * 2 ** (self.failures - 1)
            log.warning("a worker failed to start: %s", outcome.error)
        return outcome

    def result(self, ref: ObjectRef[Any], task: Task) -> TaskResult:
        """Take the result of the task; a worker that died, or whose device broke, is replaced."""
        import ray

        try:
            outcome: TaskResult = ray.get(ref)
        except ray.exceptions.RayTaskError as error:  # raised outside `perform`; the worker is well
            outcome = TaskResult(task, error=str(error), device=self.device, worker=self.worker)
        except ray.exceptions.RayError as error:
            text = f"the worker died: {_cause(error)}"
            outcome = TaskResult(task, error=text, lost=True, device=self.device, worker=self.worker)
        if outcome.lost:
            log.info("worker %s is replaced: %s", self.worker, last_line(outcome.error))
            self.kill()
            self.begin()
        else:
            self.task, self.ref = None, None
        return outcome

    def kill(self) -> None:
        """End the worker's process."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            ray.kill(self._actor, no_restart=True)


def _cause(error: Exception) -> str:
    """What Ray knows of a death, without its general advice."""
    text = last_line(str(error)).partition(" Some common causes")[0]
    return text.rpartition("Worker exit detail: ")[2].strip()
