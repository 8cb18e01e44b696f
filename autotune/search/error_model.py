"""The error model: how residual errors at single steps add up to the error of the picture.

A skipped step t feeds the model a residual that is off by the vector d_t, a linear combination of recorded
residuals. The model's squared error is

    q = sum over t, u of s_t s_u c^|t - u| <d_t, d_u>,

with s_t the measured sensitivity of the picture to step t. Errors of neighbouring steps point the same way
and add up, which c (the coherence) tells: 0 adds squares, as DPCache does (arXiv:2602.22654), 1 adds vectors.
The measured sensitivities are rough: a few cases, a dozen steps. Tilt and bend correct them towards the end
and away from the middle, and six further numbers in finer waves. They and the coherence are fitted to trials,
the waves only where trials that the fit has not seen are foreseen better with them. The form is ours;
docs/search.md has its rank correlations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from autotune.scoring.profile import Array

TINY = 1e-30
WAVES = 6  # Legendre polynomials of orders 3 to 8
# one unit of a coefficient is about a factor of e; the fit pulls them to 0, and the coherence to its default
SPREAD = 1.0
COHERENCE = 0.98
MAX_SLOPE = 3.0
LARGEST = 3.0  # coefficient


@dataclass(frozen=True, slots=True)
class Weighting:
    """How steps weigh.

    Attributes:
        tilt: the last step's sensitivity counts exp(tilt) times as much against the first one's.
        bend: likewise of both ends against the middle.
        coherence: correlation of the errors of neighbouring steps, 0 to 1.
        waves: coefficients of Legendre polynomials from order 3 on, up to `WAVES`, in the logarithm of the
            sensitivity; the first and the last step are the ends of their range.
    """

    tilt: float = 0.0
    bend: float = 0.0
    coherence: float = COHERENCE
    waves: tuple[float, ...] = ()

    def sensitivity(self, measured: Array) -> Array:
        """Corrected sensitivities, [steps]."""
        coefficients = np.array([self.tilt, self.bend, *self.waves])
        found: Array = measured * np.exp(coefficients @ _curves(len(measured), len(coefficients)))
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
MIN_WAVED = 20  # below it no waves are
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
    tried = (0, WAVES) if len(y) >= MIN_WAVED else (0,)
    foreseen = {waves: _held_out(stacked, y, measured, waves) for waves in tried}
    waves = min(foreseen, key=lambda count: float(np.sum((foreseen[count] - y) ** 2)))
    weighting, slope, offset = _fitted(stacked, y, measured, waves)
    left = y - _line(stacked, weighting, slope, offset, measured)
    return Fit(weighting, slope, offset, float(left.std()), rank_correlation(foreseen[waves], y))


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


def _held_out(products: Array, y: Array, measured: Array, waves: int) -> Array:
    """Every trial as fits foresee it that have not seen it, [trials]."""
    found = np.empty(len(y))
    for fold in range(FOLDS):
        out = np.arange(len(y)) % FOLDS == fold
        found[out] = _line(products[out], *_fitted(products[~out], y[~out], measured, waves), measured)
    return found


def _fitted(products: Array, y: Array, measured: Array, waves: int) -> tuple[Weighting, float, float]:
    """Least squares over the coefficients, coherence, slope and offset, each pulled to its default."""
    from scipy.optimize import least_squares

    shape = 2 + waves
    curves = _curves(len(measured), shape)
    lags = np.abs(np.subtract.outer(np.arange(len(measured)), np.arange(len(measured))))
    pull = 0.5 * float(np.std(y)) / SPREAD
    logit = float(np.log(COHERENCE / (1 - COHERENCE)))

    def of(x: Array) -> Weighting:
        coherence = 1.0 / (1.0 + float(np.exp(-x[shape])))
        return Weighting(float(x[0]), float(x[1]), coherence, tuple(float(v) for v in x[2:shape]))

    def errors(x: Array) -> Array:
        left = _line(products, of(x), float(x[-2]), float(x[-1]), measured) - y
        prior = pull * np.array([*x[:shape], (x[shape] - logit) / 2, 2 * (x[-2] - 1.0)])
        found: Array = np.concatenate([left, prior])
        return found

    def slopes(x: Array) -> Array:
        """Derivatives of `errors`, by hand: the fit is part of every proposal."""
        weighting, slope = of(x), float(x[-2])
        s, c = weighting.sensitivity(measured), weighting.coherence
        felt = (products * c**lags) @ s  # [trials, steps]
        q = np.maximum(felt @ s, TINY)[:, None]
        by_shape = 2 * (felt * s) @ curves.T / q
        lagged = lags * c ** np.maximum(lags - 1, 0)
        by_coherence = ((products * lagged) @ s) @ s[:, None] * c * (1 - c) / q
        left = np.hstack([slope * by_shape, slope * by_coherence, np.log(q), np.ones_like(q)])
        prior = np.diag([*[pull] * shape, pull / 2, 2 * pull, 0.0])[:-1]
        found: Array = np.vstack([left, prior])
        return found

    start = log_error(products, Weighting().matrix(measured))
    first = np.array([*[0.0] * shape, logit, 1.0, float(np.mean(y - start))])
    low = [*[-LARGEST] * shape, -3.0, 0.1, -np.inf]
    high = [*[LARGEST] * shape, 8.0, MAX_SLOPE, np.inf]
    x = least_squares(errors, first, jac=slopes, bounds=(low, high), max_nfev=100).x
    return of(x), float(x[-2]), float(x[-1])


@cache
def _curves(steps: int, count: int) -> Array:
    """What one unit of tilt, bend and waves adds to the logarithm of each sensitivity, [count, steps]."""
    x = np.linspace(-1.0, 1.0, steps)
    waves = [np.polynomial.legendre.legval(x, [0.0] * order + [1.0]) for order in range(3, count + 1)]
    found: Array = np.array([x / 2, x**2 - 1 / 3, *waves])
    return found
