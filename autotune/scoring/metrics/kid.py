"""Kernel distance between two sets of features."""

from __future__ import annotations

import math

import numpy as np

from autotune.scoring.metrics.inputs import Features, FloatArray, feature_rows
from xslim.errors import ConfigError

BLOCK = 2048  # rows a side: a block takes 32 MB whatever the number of samples


def kid(features: Features, reference: Features) -> float:
    """Return the unbiased squared MMD under the kernel (x·y / d + 1)³, of all pairs.

    The full U-statistic without subsampling: deterministic, and it draws from no random generator. The
    same distribution gives 0 on average, so single values may be below 0, and a set compared with itself
    is (its equal pairs count across the sets, not within them).

    Shapes: features [m, d], reference [n, d], m and n >= 2.

    Raises:
        ConfigError: a wrong shape, another d, or a value that is not finite.

    Source: arXiv:1801.01401, sec. 4 (kernel), and arXiv:0805.2368 (unbiased estimate of MMD²).
    """
    x, y = feature_rows(features), feature_rows(reference, "reference")
    if x.shape[1] != y.shape[1]:
        raise ConfigError(f"got d = {y.shape[1]}, need that of features, {x.shape[1]}", key="reference")
    return _within(x) + _within(y) - 2 * _kernel_sum(x, y) / (len(x) * len(y))


def _within(x: FloatArray) -> float:
    """Return the mean kernel value of the pairs of different rows."""
    diagonal = _cube(np.square(x).sum(1) / x.shape[1] + 1)
    return (_kernel_sum(x, x) - float(diagonal.sum())) / (len(x) * (len(x) - 1))


def _kernel_sum(x: FloatArray, y: FloatArray) -> float:
    return math.fsum(
        float(_cube(x[i : i + BLOCK] @ y[j : j + BLOCK].T / x.shape[1] + 1).sum())
        for i in range(0, len(x), BLOCK)
        for j in range(0, len(y), BLOCK)
    )


def _cube(x: FloatArray) -> FloatArray:
    return x * x * x  # `** 3` calls pow, several times slower
