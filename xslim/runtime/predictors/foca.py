"""FoCa: forecast a step by BDF2, then correct it by Heun's rule from the last computed step.

Source: arXiv:2508.16211. With F_n the residual at step n, computed or predicted, the forecast is
2 F_(n-1) - F_(n-2), the backward differentiation formula with the last difference as derivative. Heun's
rule then starts at the last computed residual, k steps back: F + k/2 (its slope + the forecast's slope).
Every skipped step reads the predictions before it. Ours: the value one step before the last computed one
is taken from the straight line through the two computed before it, so that three residuals are enough.
"""

from __future__ import annotations

from xslim.policy.prediction import Predictor
from xslim.runtime.predictors.base import Kept, Weights
from xslim.runtime.predictors.vectors import Vector, mix, unit


def foca(predictor: Predictor, kept: Kept) -> Weights:
    """Weights after running the recursion on them; a straight line from two residuals, else plain reuse."""
    nodes = kept.times[:3]
    residuals = [unit(i, len(nodes)) for i in range(len(nodes))]
    if len(nodes) < 2:
        return residuals[0]
    slope = _slope(residuals, nodes, 0)
    before = mix((1.0, residuals[0]), (-1.0, slope))
    if len(nodes) == 3:
        before = mix((1.0, residuals[1]), (nodes[0] - 1 - nodes[1], _slope(residuals, nodes, 1)))
    current = residuals[0]
    for elapsed in range(1, round(kept.ahead) + 1):
        forecast_slope = mix((1.0, current), (-1.0, before))  # of 2 current - before
        half = elapsed / 2
        before, current = current, mix((1.0, residuals[0]), (half, slope), (half, forecast_slope))
    return current


def _slope(residuals: list[Vector], nodes: tuple[float, ...], newer: int) -> Vector:
    gap = nodes[newer] - nodes[newer + 1]
    return mix((1 / gap, residuals[newer]), (-1 / gap, residuals[newer + 1]))
