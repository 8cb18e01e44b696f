"""What a predictor reads and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

Weights = tuple[float | Tensor, ...]
Dot = Callable[[int, int], Tensor]


@dataclass(frozen=True)
class Kept:
    """The kept residuals of samples that computed at the same steps, and the step to predict.

    Attributes:
        times: steps at which they were computed, newest first; at least one.
        at: the step to predict.
        num_steps: denoising steps of the request.
        dot: inner product of two kept residuals by position, a scalar for every sample, [batch]. It reads
            the tensors; a predictor that needs step numbers only does not call it.
    """

    times: tuple[float, ...]
    at: float
    num_steps: int
    dot: Dot

    @cached_property
    def ahead(self) -> float:
        """Steps from the newest residual to the one to predict."""
        return self.at - self.times[0]
