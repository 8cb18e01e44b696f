"""Taylor: the recurrence of TaylorSeer (arXiv:2503.06923), kept for parity with it.

At a computed step D_0 is the residual and D_(i+1) the change of D_i since the computed step before,
divided by the steps between the two; k steps later the prediction is the sum of D_i k**i / i!. Backward
differences stand in for derivatives, so that beyond order 1 it is not exact on polynomials: `newton` is.
"""

from __future__ import annotations

from itertools import pairwise

from xslim.policy.prediction import Predictor
from xslim.runtime.predictors.base import Kept, Weights, bent


def taylor(predictor: Predictor, kept: Kept) -> Weights:
    """Weights of the Taylor sum; lower order while history is short."""
    return bent(predictor, _sum(kept, predictor.order), _sum(kept, 1))


def _sum(kept: Kept, order: int) -> tuple[float, ...]:
    nodes = kept.times[: order + 1]
    count = range(len(nodes))
    differences = [[float(i == j) for j in count] for i in count]  # D_0 at every node, as weights
    total, factor = differences[0], 1.0
    for degree in range(1, len(nodes)):
        differences = [
            [(a - b) / (newer - older) for a, b in zip(new, old, strict=True)]
            for (new, old), (newer, older) in zip(pairwise(differences), pairwise(nodes), strict=False)
        ]
        factor *= kept.ahead / degree
        total = [w + factor * d for w, d in zip(total, differences[0], strict=True)]
    return tuple(total)
