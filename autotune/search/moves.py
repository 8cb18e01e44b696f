"""Local search of schedules: single computed steps are moved while the error model's estimate falls.

A move changes the errors of the few gaps around it only, so its estimate is an update of the schedule's own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from operator import sub

import numpy as np

from autotune.scoring.profile import Array
from autotune.search.replay import Replay
from xslim.policy.policy import Predictor

MOVES = (-1, 1, -2, 2, -3, 3)  # by how much a computed step is moved
SWEEPS = 12  # over all computed steps
LEAST_GAIN = 1e-9  # of a sweep, as a share of the estimate

Steps = tuple[int, ...]


@dataclass(frozen=True)
class Mover:
    """Moves the computed steps of schedules that one predictor fills.

    Attributes:
        replay: of the profile.
        predictor: what fills the skipped steps.
        max_gap: skips in a row at most.
    """

    replay: Replay
    predictor: Predictor
    max_gap: int
    _filled: dict[Steps, Array] = field(default_factory=dict)

    def improved(self, steps: Steps, matrix: Array) -> tuple[Steps, float]:
        """Return the schedule from which no single move is better, and its estimate q.

        Args:
            steps: computed steps, the first one 0.
            matrix: how errors weigh, as of `Weighting.matrix`.
        """
        place = _Place(self, steps, matrix)
        for _ in range(SWEEPS):
            before = place.estimate
            for index in range(1, len(steps)):
                place.move(index)
            if place.estimate >= before * (1 - LEAST_GAIN):
                break
        return place.steps, place.estimate

    def allowed(self, steps: Steps) -> bool:
        """Whether no gap is too long."""
        longest: int = max(map(sub, (*steps[1:], self.size), steps))
        return longest - 1 <= self.max_gap

    @property
    def size(self) -> int:
        """Steps of the request."""
        return len(self.replay.gram)

    def errors(self, steps: Steps, low: int, high: int) -> Array:
        """Residual errors of the steps low to high - 1 as combinations of the recorded ones, [.., size]."""
        found = np.zeros((high - low, self.size))
        ends = (*steps[1:], self.size)
        for i in range(bisect_right(steps, low) - 1, bisect_left(steps, high)):
            first, last = max(steps[i] + 1, low), min(ends[i], high)
            if first < last:
                kept = steps[max(0, i + 1 - self.predictor.history) : i + 1][::-1]
                found[first - low : last - low] = self._gap(kept, last)[first - kept[0] - 1 :]
        return found

    def _gap(self, kept: Steps, end: int) -> Array:
        """Errors of the steps from the last kept one to `end`, [.., size]; those known are remembered."""
        known = self._filled.get(kept)
        have, want = 0 if known is None else len(known), end - kept[0] - 1
        if known is None or have < want:
            rows = np.zeros((want, self.size))
            rows[:have] = 0.0 if known is None else known
            for row in range(have, want):
                step = kept[0] + 1 + row
                w = self.replay.predicted(self.predictor, kept, step)
                rows[row, list(kept[: len(w)])] = w
                rows[row, step] -= 1.0
            self._filled[kept] = known = rows
        return known[:want]


class _Place:
    """A schedule with its estimate, and what an update of it needs."""

    def __init__(self, mover: Mover, steps: Steps, matrix: Array) -> None:
        self.mover, self.matrix, self.gram = mover, matrix, mover.replay.gram
        self._take(steps, mover.errors(steps, 0, mover.size))

    def move(self, index: int) -> None:
        """Move one computed step to where the estimate is least."""
        best, least, errors = self.steps, self.estimate, self.errors
        for move in MOVES:
            step = self.steps[index] + move
            if not 0 < step < self.mover.size or step in self.steps:
                continue
            changed = tuple(sorted({*self.steps, step} - {self.steps[index]}))
            if not self.mover.allowed(changed):
                continue
            low, high = self._touched(changed)
            part = self.mover.errors(changed, low, high)
            value = self._estimate(part - self.errors[low:high], low, high)
            if value < least:
                best, least = changed, value
                errors = np.concatenate([self.errors[:low], part, self.errors[high:]])
        if best is not self.steps:
            self._take(best, errors)

    def _take(self, steps: Steps, errors: Array) -> None:
        self.steps, self.errors = steps, errors
        self.pull = self.matrix @ errors @ self.gram
        self.estimate = float((errors * self.pull).sum())

    def _estimate(self, difference: Array, low: int, high: int) -> float:
        """Q with these errors added to those of the steps low .. high - 1."""
        own = (self.matrix[low:high, low:high] @ difference @ self.gram * difference).sum()
        return float(self.estimate + 2 * (difference * self.pull[low:high]).sum() + own)

    def _touched(self, changed: Steps) -> tuple[int, int]:
        """The steps whose prediction reads other computed steps in `changed`."""
        differing = [i for i, (a, b) in enumerate(zip(self.steps, changed, strict=True)) if a != b]
        last = differing[-1] + self.mover.predictor.history
        low = self.steps[differing[0] - 1] + 1
        high = self.mover.size if last >= len(changed) else max(self.steps[last], changed[last])
        return low, high
