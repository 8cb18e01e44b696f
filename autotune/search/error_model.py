"""The error model: how residual errors at single steps add up to the error of the picture.

A skipped step t feeds the model a residual that is off by the vector d_t, a linear combination of recorded
residuals. The model's squared error is

    q = sum over t, u of s_t s_u c^|t - u| <d_t, d_u>,

with s_t the measured sensitivity of the picture to step t. Errors of neighbouring steps point the same way
and add up, which c (the coherence) tells: 0 adds squares, as DPCache does (arXiv:2602.22654), 1 adds vectors.
Two numbers, tilt and bend, correct the sensitivities towards the end and away from the middle; they and the
coherence are fitted to measured trials. The form is ours; docs/search.md has its rank correlations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.scoring.profile import Array

TINY = 1e-30
# one unit of tilt or bend is a factor of e; the fit pulls them to 0, and the coherence to its default
SPREAD = 1.0
COHERENCE = 0.98
MAX_SLOPE = 3.0


@dataclass(frozen=True, slots=True)
class Weighting:
    """How steps weigh.

    Attributes:
        tilt: the last step's sensitivity counts exp(tilt) times as much against the first one's.
        bend: likewise of both ends against the middle.
        coherence: correlation of the errors of neighbouring steps, 0 to 1.
    """

    tilt: float = 0.0
    bend: float = 0.0
    coherence: float = COHERENCE

    def sensitivity(self, measured: Array) -> Array:
        """Corrected sensitivities, [steps]."""
        x = np.linspace(-1.0, 1.0, len(measured))
        found: Array = measured * np.exp(self.tilt * x / 2 + self.bend * (x**2 - 1 / 3))
        return found

    def matrix(self, measured: Array) -> Array:
        """s_t s_u c^|t - u|, [steps, steps]."""
        s = self.sensitivity(measured)
        lags = np.abs(np.subtract.outer(np.arange(len(s)), np.arange(len(s))))
        found: Array = np.outer(s, s) * self.coherence**lags
        return found


@dataclass(frozen=True, slots=True)
class Fit:
    """The error model fitted to measured trials: log(metric) = slope log(q) + offset.

    Attributes:
        weighting: the fitted weighting.
        slope: of the line.
        offset: of the line.
        spread: standard deviation of what is left, in units of log(metric).
        rank_correlation: Spearman's, of measured values with predictions by fits that did not see them; NaN
            below `MIN_TRIALS`.
    """

    weighting: Weighting
    slope: float
    offset: float
    spread: float
    rank_correlation: float

    def log_metric(self, log_q: float) -> float:
        """Predict the logarithm of the metric."""
        return self.slope * log_q + self.offset


MIN_TRIALS = 6  # below it nothing is fitted
FOLDS = 5


def fit(products: Sequence[Array], logs: Sequence[float], measured: Array) -> Fit | None:
    """Fit the error model; None with too few trials.

    Args:
        products: <d_t, d_u> of every trial, each [steps, steps].
        logs: logarithm of the metric of every trial, such as LPIPS.
        measured: sensitivity of the profile, [steps].
    """
    usable = [i for i, k in enumerate(products) if np.isfinite(logs[i]) and np.trace(k) > TINY]
    if len(usable) < MIN_TRIALS:
        return None
    stacked, y = np.stack([products[i] for i in usable]), np.array([logs[i] for i in usable])
    weighting, slope, offset = _fitted(stacked, y, measured)
    left = y - _line(stacked, weighting, slope, offset, measured)
    held_out = np.empty(len(y))
    for fold in range(FOLDS):
        out = np.arange(len(y)) % FOLDS == fold
        held_out[out] = _line(stacked[out], *_fitted(stacked[~out], y[~out], measured), measured)
    return Fit(weighting, slope, offset, float(left.std()), rank_correlation(held_out, y))


def log_error(products: Array, matrix: Array) -> Array:
    """log(q) of one or more trials. Shapes: [..., steps, steps], [steps, steps] -> [...]."""
    found: Array = np.log(np.maximum((products * matrix).sum((-2, -1)), TINY))
    return found


def rank_correlation(x: Array, y: Array) -> float:
    """Spearman's; NaN where either does not vary."""
    from scipy.stats import spearmanr

    if min(len(np.unique(x)), len(np.unique(y))) < 2:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def _line(products: Array, weighting: Weighting, slope: float, offset: float, measured: Array) -> Array:
    found: Array = slope * log_error(products, weighting.matrix(measured)) + offset
    return found


def _fitted(products: Array, y: Array, measured: Array) -> tuple[Weighting, float, float]:
    """Least squares over tilt, bend, coherence, slope and offset, each pulled to its default."""
    from scipy.optimize import least_squares

    start = log_error(products, Weighting().matrix(measured))
    pull = 0.5 * float(np.std(y)) / SPREAD

    def of(x: Array) -> Weighting:
        return Weighting(float(x[0]), float(x[1]), 1.0 / (1.0 + float(np.exp(-x[2]))))

    def errors(x: Array) -> Array:
        left = _line(products, of(x), float(x[3]), float(x[4]), measured) - y
        prior = pull * np.array([x[0], x[1], (x[2] - logit) / 2, 2 * (x[3] - 1.0)])
        found: Array = np.concatenate([left, prior])
        return found

    logit = float(np.log(COHERENCE / (1 - COHERENCE)))
    first = np.array([0.0, 0.0, logit, 1.0, float(np.mean(y - start))])
    low, high = [-3.0, -3.0, -3.0, 0.1, -np.inf], [3.0, 3.0, 8.0, MAX_SLOPE, np.inf]
    x = least_squares(errors, first, bounds=(low, high), max_nfev=100).x
    return of(x), float(x[3]), float(x[4])
