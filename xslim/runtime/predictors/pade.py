"""Padé: a rational function through the last two computed residuals, by stage of the sampling.

Source: TC-Padé, arXiv:2603.02943. Its formulas as printed cannot be run: the weights lean on the oldest
residual, and the division by a residual, element by element, is singular. What is here is our reading of
them. R_1, R_2 are the last two computed residuals and x is the steps ahead over the steps between them:

- more than 0.7 of the way left: alpha R_1 + (1 - alpha) R_2;
- in between: (R_1 + s x (R_1 - R_2)) / max(1/2, 1 + s x / decay (|R_1| / |R_2| - 1)), where the trust s is
  exp(-decay |R_1 - R_2| / |R_1 + R_2|); at x = 1 the numerator is (1 - s) R_1 + 2 s R_1 - s R_2;
- less than 0.2 left: the same, plus beta x (R_1 - R_2).

The test of stability that decides on skips there (thresholds 0.7 to 1.3) is no part of the predictor.
"""

from __future__ import annotations

from torch import Tensor

from xslim.policy.prediction import Pade, Predictor
from xslim.runtime.predictors.base import Dot, Kept, Weights

EARLY, LATE = 0.7, 0.2  # shares of the way left at which the stages change; arXiv:2603.02943
LEAST_DENOMINATOR = 0.5  # ours
TINY = 1e-30  # squared norms of an all-zero residual are divided by this instead


def pade(predictor: Predictor, kept: Kept) -> Weights:
    """Weights by stage, one value for every sample beyond the first stage; plain reuse from one residual."""
    keys = predictor.pade or Pade()
    if len(kept.times) < 2:
        return (1.0,)
    left = 1 - kept.at / kept.num_steps
    if left > EARLY:
        return (keys.alpha, 1 - keys.alpha)
    x = kept.ahead / (kept.times[0] - kept.times[1])
    trust, ratio = _trust_and_ratio(kept.dot, keys.decay)
    denominator = (1 + trust * (x / keys.decay) * (ratio - 1)).clamp_min(LEAST_DENOMINATOR)
    push = trust * x
    extra = keys.beta * x if left < LATE else 0.0
    return (1 + push) / denominator + extra, -push / denominator - extra


def _trust_and_ratio(dot: Dot, decay: float) -> tuple[Tensor, Tensor]:
    """The trust in the slope, and the newest residual's size relative to the one before."""
    new, both, old = dot(0, 0), dot(0, 1), dot(1, 1)
    difference = (new - 2 * both + old).clamp_min(0)
    total = (new + 2 * both + old).clamp_min(TINY)
    ratio = (new / old.clamp_min(TINY)).sqrt()
    return (-decay * (difference / total).sqrt()).exp(), ratio
