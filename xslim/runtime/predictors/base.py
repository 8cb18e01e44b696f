"""What a predictor reads and what it returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from xslim.policy.prediction import Predictor

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


def bent(predictor: Predictor, whole: Sequence[float], line: Sequence[float]) -> tuple[float, ...]:
    """Weights of the line through the last two residuals, and `curvature` times what a polynomial adds.

    Args:
        predictor: whose curvature.
        whole: weights of the polynomial, newest residual first.
        line: those of the line.
    """
    if predictor.curvature == 1.0:
        return tuple(whole)
    padded = [*line, *(0.0 for _ in range(len(whole) - len(line)))]
    return tuple(a + predictor.curvature * (b - a) for a, b in zip(padded, whole, strict=True))
