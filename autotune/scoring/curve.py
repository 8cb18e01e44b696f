"""The step curve, mean |change of the stack's residual| from step to step, and where it jumps.

A jump is a discontinuity of the model along the path, such as FLUX.1-dev's near sigma 0.85: skipping
the first step behind it reuses a residual from before it. Pure functions of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

REACH = 3  # values on each side that a value is compared with; a spike of up to 3 steps stands out
DEVIATIONS = 5.0  # robust standard deviations from the neighbourhood that make an outlier
LEAST_RATIO = 1.5  # and at least this many times the neighbourhood, however smooth the rest is
NORMAL_MAD = 1.4826  # standard deviation of a normal distribution per median absolute deviation


def jumps(curve: Sequence[float] | NDArray[np.float64]) -> tuple[int, ...]:
    """Return the steps behind a jump: step i + 1 where the curve's value i is an outlier.

    The logarithm of every value is compared with the median of its neighbours, of which there are as
    many before as behind, so that a steady trend is its own median. The scale is the median absolute
    deviation of these differences over the whole curve.

    Args:
        curve: mean |change of the residual| from step i to i + 1.
    """
    values = np.asarray(curve, dtype=np.float64)
    if not len(values):
        return ()
    logs = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    excess = np.zeros_like(logs)
    for i in range(1, len(logs) - 1):
        reach = min(REACH, i, len(logs) - 1 - i)
        around = np.concatenate([logs[i - reach : i], logs[i + 1 : i + reach + 1]])
        excess[i] = logs[i] - np.median(around)
    scale = NORMAL_MAD * np.median(np.abs(excess - np.median(excess)))
    least = max(DEVIATIONS * scale, np.log(LEAST_RATIO))
    return tuple(int(i) + 1 for i in np.flatnonzero(excess > least))


def sigma_windows(steps: Sequence[int], sigmas: Sequence[float] | None) -> tuple[tuple[float, float], ...]:
    """Return windows of sigma for `guards.sigma_windows` that hold some steps, and no others.

    Each reaches half-way to the neighbouring steps: with as many steps on another grid about one falls
    into it.

    Args:
        steps: steps that must be full.
        sigmas: noise levels, one a step, falling; without them there are no windows.
    """
    if sigmas is None:
        return ()
    last = len(sigmas) - 1
    return tuple(
        (
            (sigmas[step] + sigmas[min(step + 1, last)]) / 2,
            (sigmas[step] + sigmas[max(step - 1, 0)]) / 2,
        )
        for step in steps
    )
