"""Which waiting task a free worker gets: latency is measured on devices of one kind only."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from autotune.search.executor import Task


class TaskQueue:
    """Tasks in the order they came. Once a timed one is sent, all others go to the same kind of device.

    A ratio of latencies depends on the device, so those of two kinds are never compared; workers of another
    kind take tasks that are not timed.

    Attributes:
        timing_device: the kind that timed tasks go to; None until it is chosen.
    """

    def __init__(self, timing_device: str | None = None) -> None:
        self.timing_device = timing_device
        self._tasks: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def put(self, task: Task) -> None:
        """Add a task; one that is sent again goes first."""
        if task.attempt:
            self._tasks.appendleft(task)
        else:
            self._tasks.append(task)

    def clear(self) -> list[Task]:
        """Return all tasks and forget them."""
        tasks = list(self._tasks)
        self._tasks.clear()
        return tasks

    def choose(self, devices: Sequence[str]) -> None:
        """Choose the kind for timed tasks when the first is waiting: the commonest of the loaded workers."""
        if self.timing_device is None and devices and any(task.timed for task in self._tasks):
            self.timing_device = Counter(devices).most_common(1)[0][0]

    def take(self, device: str) -> Task | None:
        """Take the first task that a worker on such a device may run."""
        for index, task in enumerate(self._tasks):
            if not task.timed or device == self.timing_device:
                del self._tasks[index]
                return task
        return None
