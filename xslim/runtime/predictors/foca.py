"""FoCa: forecast a step by BDF2, then correct it by Heun's rule from the last computed step.

Source: arXiv:2508.16211. With F_n the residual at step n, computed or predicted, the forecast is
2 F_(n-1) - F_(n-2), the backward differentiation formula with the last difference as derivative. Heun's
rule then starts at the last computed residual, k steps back: F_n = F + k/2 (d + d'), with d the slope
between the last two computed residuals and d' that of the forecast, F_(n-1) - F_(n-2). Each skipped step
reads the predictions before it.

Run out by hand, the recursion is F_n = F + k d - k (k - 3) / 4 (j - d), where j is the step that the
sampler saw at the last computed one: its residual less what stood for the one before. That is computed
here at once, since the recursion multiplies rounding errors. Ours: what stood for the one before is taken
from the line through the two residuals computed before it, so that three are enough, and
j - d = (steps between the last two computed - 1) (d - slope before d). It grows with k**2: for short runs
of skips.
"""

from __future__ import annotations

from xslim.policy.prediction import Predictor
from xslim.runtime.predictors.base import Kept, Weights


def foca(predictor: Predictor, kept: Kept) -> Weights:
    """Weights of the recursion's outcome; a straight line from two residuals, plain reuse from one."""
    if len(kept.times) < 2:
        return (1.0,)
    k = kept.ahead
    gap = kept.times[0] - kept.times[1]
    line = (1 + k / gap, -k / gap)
    if len(kept.times) < 3:
        return line
    older_gap = kept.times[1] - kept.times[2]
    bend = -k * (k - 3) / 4 * (gap - 1)
    return line[0] + bend / gap, line[1] - bend * (1 / gap + 1 / older_gap), bend / older_gap
