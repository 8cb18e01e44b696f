"""Lessons: what is fitted or trained on the model for a policy, learned once and kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

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

    def learn(self, given: Learned, name: str, settings: Mapping[str, Any]) -> Learned | str:
        """Return the policy after the lesson, or why it cannot be learned.

        Raises:
            ConfigError: a worker found the input at fault.
        """
        path = self._path(given, name, settings)
        if path.exists():
            data = json.loads(path.read_text())
            self.spent_s += data["seconds"]
            return Learned(Policy.parse(data["policy"]), sampling_of(data["sampling"]))
        lesson, started = Lesson(name, settings, str(path.parent.resolve())), time.monotonic()
        self.dispatcher.submit(
            "learn", self.cases, policy=given.policy, sampling=given.sampling, lesson=lesson
        )
        results: list[tuple[object, TaskResult]] = []
        while not results:
            results = self.dispatcher.wait()
        value = results[0][1].value
        if not isinstance(value, Learned):
            return last_line(results[0][1].error)
        seconds = time.monotonic() - started
        self.spent_s += seconds
        data = {"policy": value.policy.to_data(), "sampling": value.sampling.to_data(), "seconds": seconds}
        write_text(path, json.dumps(data))
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
