"""Unbiased squared maximum mean discrepancy (MMD) of two sets under a kernel."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from autotune.scoring.metrics.inputs import Features, FloatArray, feature_rows
from xslim.errors import ConfigError

BLOCK = 2048  # rows a side: a block takes 32 MB whatever the number of samples


class Kernel(Protocol):
    """A positive definite kernel; hashable, because terms of a reference set are kept by it."""

    def prepare(self, rows: FloatArray) -> FloatArray:
        """Return the rows that the kernel compares. Shapes: [n, d] -> [n, d]."""
        ...

    def __call__(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the kernel of all pairs, up to a constant. Shapes: [m, d], [n, d] -> [m, n]."""
        ...


class MmdSet:
    """One side of an MMD, with the part that depends on it alone.

    Shapes: features [n, d], n >= 2.

    Raises:
        ConfigError: a wrong shape, or a value that is not finite.
    """

    def __init__(self, features: Features, kernel: Kernel, name: str = "features") -> None:
        self.rows = kernel.prepare(feature_rows(features, name))
        n = len(self.rows)
        # mean kernel of the pairs of different rows
        self.within = _kernel_sum(self.rows, self.rows, kernel, other_rows=True) / (n * (n - 1))


def mmd2(x: MmdSet, y: MmdSet, kernel: Kernel) -> float:
    """Return the unbiased estimate of MMD² of all pairs.

    The full U-statistic without subsampling: deterministic, and it draws from no random generator. The
    same distribution gives 0 on average, so single values may be below 0, and a set compared with itself
    is (its equal pairs count across the sets, not within them).

    Raises:
        ConfigError: the sets differ in d.

    Source: arXiv:0805.2368, eq. 3.
    """
    if x.rows.shape[1] != y.rows.shape[1]:
        raise ConfigError(
            f"got d = {y.rows.shape[1]}, need that of features, {x.rows.shape[1]}", key="reference"
        )
    between = _kernel_sum(x.rows, y.rows, kernel) / (len(x.rows) * len(y.rows))
    return x.within + y.within - 2 * between


def _kernel_sum(x: FloatArray, y: FloatArray, kernel: Kernel, other_rows: bool = False) -> float:
    """Sum the kernel over all pairs, or over those of rows of different number."""
    parts = []
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            block = kernel(x[i : i + BLOCK], y[j : j + BLOCK])
            if other_rows and i == j:
                np.fill_diagonal(block, 0.0)
            parts.append(float(block.sum()))
    return math.fsum(parts)
