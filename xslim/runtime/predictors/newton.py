"""Newton: polynomial extrapolation through the last order + 1 computed residuals.

Source: Newton's divided differences, the exact variant of the finite-difference forecast of TaylorSeer
(arXiv:2503.06923); on f = x**2 sampled at 0, 2, 4 it gives f(5) = 25, TaylorSeer's recurrence 23. A factor
for the terms of higher order is in the spirit of HiCache's scaled polynomials (arXiv:2508.16984), the form is
ours.
"""

from __future__ import annotations

from math import prod

from xslim.policy.prediction import Predictor
from xslim.runtime.predictors.base import Kept, Weights, bent


def newton(predictor: Predictor, kept: Kept) -> Weights:
    """Weights of the interpolating polynomial, in Lagrange's form; lower order while history is short."""
    return bent(predictor, _through(kept, predictor.order), _through(kept, 1))


def _through(kept: Kept, order: int) -> tuple[float, ...]:
    nodes = kept.times[: order + 1]
    return tuple(
        prod(((kept.at - other) / (node - other) for j, other in enumerate(nodes) if j != i), start=1.0)
        for i, node in enumerate(nodes)
    )
