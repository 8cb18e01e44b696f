"""Gamma: the last computed residual, scaled to the size that the profile expects at this step.

Source: MagCache, arXiv:2506.09045, whose gamma is the size of a residual relative to the step before; the
product of the gammas since the computed step is the factor. There it only decides on skips; applying it
to the residual is ours. The table holds the running product over progress, so that it serves requests of
any number of steps.
"""

from __future__ import annotations

from xslim.policy.prediction import Predictor
from xslim.runtime.predictors.base import Kept, Weights


def gamma(predictor: Predictor, kept: Kept) -> Weights:
    """The one weight: expected size at the step to predict over that at the computed step."""
    sizes = predictor.gamma
    if sizes is None:  # a valid predictor of this kind has its table
        raise ValueError("the predictor gamma has no table")
    last = max(1, kept.num_steps - 1)
    return (sizes(kept.at / last) / sizes(kept.times[0] / last),)
