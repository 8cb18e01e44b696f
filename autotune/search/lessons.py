"""Lessons: what is fitted or trained on the model for a policy, learned once and kept."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, cast

from autotune.scoring.case import Case
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.sampling import sampling_of
from autotune.search.dispatch import Dispatcher, last_line
from autotune.search.executor import TaskResult
from autotune.search.files import write_text
from xslim.policy.policy import Policy


@dataclass
class Lessons:
    """Learns on the workers; what was learned is kept in a folder.

    Attributes:
        dispatcher: where it runs.
        folder: where it is kept.
        cases: search cases: nothing is learned from held-out ones.
        context: what all measurements of this run have in common.
        stop: whether to end early.
        spent_s: seconds that all lessons took, kept ones when they were learned.
    """

    dispatcher: Dispatcher
    folder: Path
    cases: tuple[Case, ...]
    context: Mapping[str, Any]
    stop: Callable[[], bool]
    spent_s: float = 0.0

    def learn_all(
        self, given: Sequence[Learned], name: str, settings: Sequence[Mapping[str, Any]]
    ) -> list[Learned | str]:
        """Learn on all workers: each policy after the lesson, or why it cannot be learned.

        When told to stop, what is in flight is finished, and the rest says so.

        Args:
            given: the policies.
            name: of the lesson.
            settings: of the lesson, for each policy.

        Raises:
            ConfigError: a worker found the input at fault.
        """
        found: list[Learned | str] = ["stopped"] * len(given)
        left = deque(range(len(given)))
        started: dict[int, float] = {}
        while started or left:
            while left and self.dispatcher.free and not self.stop():
                i = left.popleft()
                path = self._path(given[i], name, settings[i])
                if path.exists():
                    found[i] = self._kept(path)
                    continue
                lesson = Lesson(name, settings[i], str(path.parent.resolve()))
                started[i] = time.monotonic()
                self.dispatcher.submit(
                    "learn", self.cases, i, policy=given[i].policy, sampling=given[i].sampling, lesson=lesson
                )
            if not started:
                break
            for tag, result in self.dispatcher.wait():
                i = cast("int", tag)
                seconds = time.monotonic() - started.pop(i)
                found[i] = self._take(given[i], name, settings[i], result, seconds)
        return found

    def _kept(self, path: Path) -> Learned:
        data = json.loads(path.read_text())
        self.spent_s += data["seconds"]
        return Learned(Policy.parse(data["policy"]), sampling_of(data["sampling"]))

    def _take(
        self, given: Learned, name: str, settings: Mapping[str, Any], result: TaskResult, seconds: float
    ) -> Learned | str:
        """Keep what was learned."""
        if not isinstance(result.value, Learned):
            return last_line(result.error)
        self.spent_s += seconds
        value = result.value
        data = {"policy": value.policy.to_data(), "sampling": value.sampling.to_data(), "seconds": seconds}
        write_text(self._path(given, name, settings), json.dumps(data))
        return value

    def _path(self, given: Learned, name: str, settings: Mapping[str, Any]) -> Path:
        facts = {
            **self.context,
            "policy": given.policy.to_data(),
            "sampling": given.sampling.to_data(),
            "lesson": [name, dict(settings)],
            "cases": [asdict(case) for case in self.cases],
        }
        key = sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{key}.json"
