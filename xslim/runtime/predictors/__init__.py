"""Predictors: weights of the kept residuals, newest first. One file each, one line here.

Every predictor here is a linear combination of the kept residuals, so it is fully described by its
weights. Most depend on step numbers alone and are plain floats; where they depend on the residuals they
are tensors of one value a sample, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from xslim._registry import Registry
from xslim.errors import ConfigError
from xslim.policy.decision import StepInfo
from xslim.policy.policy import Policy
from xslim.policy.prediction import Predictor
from xslim.runtime.compensation import Compensation
from xslim.runtime.corrector import correct
from xslim.runtime.feature_cache import ResidualHistory, narrow
from xslim.runtime.predictors.base import Dot, Kept, Weights
from xslim.runtime.predictors.foca import foca
from xslim.runtime.predictors.gamma import gamma
from xslim.runtime.predictors.hold import hold
from xslim.runtime.predictors.newton import newton
from xslim.runtime.predictors.pade import pade
from xslim.runtime.predictors.taylor import taylor

__all__ = ["PREDICTORS", "Dot", "Kept", "Weights", "predict", "weights"]

PREDICTORS: Registry[Callable[[Predictor, Kept], Weights]] = Registry(
    "predictor",
    {"hold": hold, "newton": newton, "taylor": taylor, "pade": pade, "foca": foca, "gamma": gamma},
    ConfigError,
)


def weights(predictor: Predictor, kept: Kept) -> Weights:
    """Return the weights of the kept residuals, newest first; at most `predictor.history` of them."""
    return PREDICTORS[predictor.kind](predictor, kept)


def predict(
    policy: Policy, history: ResidualHistory, info: StepInfo, network: Compensation | None = None
) -> Tensor:
    """Predict the stack residual of a step, corrector included.

    Args:
        policy: its predictor and corrector are used.
        history: the computed residuals; every sample has at least one.
        info: the step to predict.
        network: of a learned corrector; None loads it.

    Returns:
        [batch, tokens, dim] in the type of the residuals; with plain reuse the kept tensor itself. What
        is beyond the range of a narrow type is cut to it.
    """

    def weigh(times: Sequence[float], dot: Dot) -> Weights:
        kept = Kept(tuple(times), float(info.step), info.num_steps, dot)
        return weights(policy.predictor, kept)

    combined = history.combine(weigh)
    dtype = history.newest.dtype
    return narrow(correct(policy.corrector, combined, info.step, dtype, network), dtype)
