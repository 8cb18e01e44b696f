"""Predictors: weights of the kept residuals, newest first. One file each, one line here.

Every predictor here is a linear combination of the history, so it is fully described by its
weights, which depend on step numbers alone: pure arithmetic on a few floats a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from xslim._registry import Registry
from xslim.errors import ConfigError
from xslim.policy.policy import Predictor
from xslim.runtime.predictors.hold import hold
from xslim.runtime.predictors.newton import newton

Weights = tuple[float, ...]
PREDICTORS: Registry[Callable[[Sequence[float], float, int], Weights]] = Registry(
    "predictor", {"hold": hold, "newton": newton}, ConfigError
)


def weights(predictor: Predictor, times: Sequence[float], at: float) -> Weights:
    """Return the weights of the residuals computed at `times` (newest first) for a step `at`."""
    return PREDICTORS[predictor.kind](times, at, predictor.order)
