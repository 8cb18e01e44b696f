"""Summaries of per-picture values: means, tails and bootstrap intervals. Arrays in, numbers out."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xslim.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
RESAMPLES = 2000  # percentile ends need at least 1000 (Efron & Tibshirani 1993, ch. 13 and 19)
CHUNK_VALUES = 2**21  # bounds a block of resamples to 32 MB
SPLITS = 10  # of a set in two; a split of 10,000 features takes about a second
# of 400 normal samples each, the 95 % interval of the mean held the truth in 92 % at n = 20 and in 87 % at
# n = 8; that of the 5th percentile in 89 % at n = 100, in 84 % at n = 64 and in 51 % at n = 16
MEANS_FROM_N = 20
TAILS_FROM_N = 100


class Interval(NamedTuple):
    """An estimate and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_ci95(values: npt.ArrayLike, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the mean and its 95 % percentile-bootstrap interval.

    The interval always holds the mean; of a single value it has no width. The same arguments give the same
    numbers, and no global random state is touched.

    Shapes: values [n], n >= 1.

    Raises:
        ConfigError: no value, another shape, a value that is not finite, or resamples < 1.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, sec. 13.3.
    """
    return _bootstrap(_checked(values), lambda rows: rows.mean(-1), seed, resamples)


def tail(values: npt.ArrayLike, q: float) -> float:
    """Return the q-th percentile, q in [0, 100], interpolated linearly between values.

    Shapes: values [n], n >= 1.

    Raises:
        ConfigError: no value, another shape, a value that is not finite, or q outside [0, 100].
    """
    return float(np.percentile(_checked(values), _checked_q(q)))


def tail_ci95(values: npt.ArrayLike, q: float, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the q-th percentile and its 95 % percentile-bootstrap interval.

    A resample holds no value beyond the worst one seen, so with few values (below some 100 for q = 5 or 95)
    the interval is too narrow on the bad side.

    Shapes: values [n], n >= 1.

    Raises:
        ConfigError: as `tail`, or resamples < 1.
    """
    q = _checked_q(q)
    return _bootstrap(_checked(values), lambda rows: np.percentile(rows, q, axis=-1), seed, resamples)


class NullRange(NamedTuple):
    """What a statistic of two sets gives when both are of the same distribution.

    Attributes:
        value: its mean over random splits.
        low: the smallest of them.
        high: the largest.
        n: size of the one set.
        against: size of the other.
    """

    value: float
    low: float
    high: float
    n: int
    against: int


def null_range(
    statistic: Callable[[FloatArray, FloatArray], float], rows: FloatArray, n: int, seed: int = 0
) -> NullRange | None:
    """Split a set in two at random, again and again, and compare the two.

    It says how much of a distance such as FID is there for two samples of one and the same distribution: the
    bias of so few samples, and its scatter.

    Shapes: rows [m, d]. One side gets `n` rows, the other the rest; with fewer than 2n rows both get half.

    Returns:
        None when there are fewer than 4 rows.
    """
    if len(rows) < 4:
        return None
    n = max(2, min(n, len(rows) // 2))
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(SPLITS):
        order = generator.permutation(len(rows))
        values.append(statistic(rows[order[:n]], rows[order[n:]]))
    return NullRange(float(np.mean(values)), min(values), max(values), n, len(rows) - n)


def interval_warnings(n: int) -> list[str]:
    """What must be said of intervals and tails of so few values; one line each."""
    found = []
    if n < MEANS_FROM_N:
        found.append(f"{n} cases: below {MEANS_FROM_N} the 95 % intervals are too narrow")
    if n < TAILS_FROM_N:
        found.append(
            f"{n} cases: below {TAILS_FROM_N} a 5 % tail hangs on a few of them, and its interval is too "
            "narrow on the bad side"
        )
    return found


def _bootstrap(
    values: FloatArray, statistic: Callable[[FloatArray], FloatArray], seed: int, resamples: int
) -> Interval:
    if resamples < 1:
        raise ConfigError(f"got {resamples}, need at least 1", key="resamples")
    generator = np.random.default_rng(seed)
    chunk = max(1, CHUNK_VALUES // len(values))
    draws = np.concatenate(
        [
            statistic(values[generator.integers(len(values), size=(min(chunk, resamples - i), len(values)))])
            for i in range(0, resamples, chunk)
        ]
    )
    value = float(statistic(values))
    low, high = np.percentile(draws, [2.5, 97.5])
    # Rounding can leave the estimate a hair outside (equal values), and few resamples by more.
    return Interval(value, min(float(low), value), max(float(high), value))


def _checked(values: npt.ArrayLike) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ConfigError(f"got shape {list(array.shape)}, need [n] with n >= 1", key="values")
    if not np.isfinite(array).all():
        raise ConfigError("got a value that is not finite", key="values")
    return array


def _checked_q(q: float) -> float:
    if not 0 <= q <= 100:
        raise ConfigError(f"got {q}, need a percentile in [0, 100]", key="q")
    return q
