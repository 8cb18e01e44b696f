"""What a step is told to do: actions, the facts about a step, and the decision."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Action(StrEnum):
    """What a step computes, by the letter it has in patterns and traces."""

    FULL = "F"
    BLOCK = "B"
    TOKEN = "T"
    SKIP = "."


@dataclass(frozen=True, slots=True)
class StepInfo:
    """Where a request stands.

    Attributes:
        step: index of the denoising step, from 0.
        num_steps: denoising steps of the request.
        sigma: noise level of the step, or None when the caller does not know it.
        branch: name of the guidance branch.
    """

    step: int
    num_steps: int
    sigma: float | None = None
    branch: str = "default"

    @property
    def progress(self) -> float:
        """Share of the way, 0 at the first step and 1 at the last."""
        return self.step / max(1, self.num_steps - 1)


@dataclass(frozen=True, slots=True)
class Decision:
    """What one sample does at one step.

    Attributes:
        action: full, block refresh, token refresh or skip.
        reason: the rule that decided, one word or two.
        err: accumulated error estimate after this decision, dimensionless.
        compute_blocks: for a block refresh with a fixed list, one flag a block; else None (the
            runtime selects by measured change).
        nonfinite: a signal was NaN or infinite, and the step is full because of it.
    """

    action: Action
    reason: str
    err: float = 0.0
    compute_blocks: tuple[bool, ...] | None = None
    nonfinite: bool = False
