"""Unbiased squared maximum mean discrepancy (MMD) of two sets under a kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
        # mean kernel of the pairs of different rows
        self.within = _within_sum(self.rows, kernel) / (len(self.rows) * (len(self.rows) - 1))


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
    between = _between_sum(x.rows, y.rows, kernel) / (len(x.rows) * len(y.rows))
    return x.within + y.within - 2 * between


def _between_sum(x: FloatArray, y: FloatArray, kernel: Kernel) -> float:
    """Sum the kernel over all pairs of a row of x and one of y."""
    return math.fsum(float(kernel(a, b).sum()) for a in _blocks(x) for b in _blocks(y))


def _within_sum(x: FloatArray, kernel: Kernel) -> float:
    """Sum the kernel over all ordered pairs of different rows; each block stands for its mirror image too."""
    parts = []
    for i, a in enumerate(_blocks(x)):
        for j, b in enumerate(_blocks(x)):
            if i == j:
                block = kernel(a, b)
                np.fill_diagonal(block, 0.0)
                parts.append(float(block.sum()))
            elif i < j:
                parts.append(2 * float(kernel(a, b).sum()))
    return math.fsum(parts)


def _blocks(x: FloatArray) -> Iterator[FloatArray]:
    return (x[i : i + BLOCK] for i in range(0, len(x), BLOCK))
