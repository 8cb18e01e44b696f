"""Hold: reuse the last computed residual as it is."""

from __future__ import annotations

from xslim.policy.prediction import Predictor
from xslim.runtime.predictors.base import Kept, Weights


def hold(predictor: Predictor, kept: Kept) -> Weights:
    """Weights of plain reuse: all on the newest residual."""
    return (1.0,)
