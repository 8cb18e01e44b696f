"""Taylor: the recurrence of TaylorSeer (arXiv:2503.06923), kept for parity with it.

At a computed step D_0 is the residual and D_(i+1) the change of D_i since the computed step before,
divided by the steps between the two; k steps later the prediction is the sum of D_i k**i / i!. Backward
differences stand in for derivatives, so that beyond order 1 it is not exact on polynomials: `newton` is.
"""

from __future__ import annotations

from itertools import pairwise

from xslim.policy.prediction import Predictor
from xslim.runtime.predictors.base import Kept, Weights
from xslim.runtime.predictors.vectors import mix, unit


def taylor(predictor: Predictor, kept: Kept) -> Weights:
    """Weights of the Taylor sum; lower order while history is short."""
    nodes = kept.times[: predictor.order + 1]
    differences = [unit(i, len(nodes)) for i in range(len(nodes))]  # D_i at every node, newest first
    total, factor = differences[0], 1.0
    for order in range(1, len(nodes)):
        differences = [
            mix((1 / (newer - older), new), (-1 / (newer - older), old))
            for (new, old), (newer, older) in zip(pairwise(differences), pairwise(nodes), strict=False)
        ]
        factor *= kept.ahead / order
        total = mix((1.0, total), (factor, differences[0]))
    return total
