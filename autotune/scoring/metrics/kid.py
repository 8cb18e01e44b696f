"""Kernel distance between two sets of features."""

from __future__ import annotations

from dataclasses import dataclass

from autotune.scoring.metrics.inputs import Features, FloatArray
from autotune.scoring.metrics.mmd import mmd2
from autotune.scoring.metrics.reference_set import ReferenceSet, mmd_set


@dataclass(frozen=True, slots=True)
class CubicKernel:
    """(x·y / d + 1)³."""

    def prepare(self, rows: FloatArray) -> FloatArray:
        """Return the rows as they are."""
        return rows

    def __call__(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the kernel of all pairs."""
        z: FloatArray = x @ y.T / x.shape[1] + 1
        return z * z * z  # `** 3` calls pow, several times slower


KERNEL = CubicKernel()


def kid(features: Features | ReferenceSet, reference: Features | ReferenceSet) -> float:
    """Return the unbiased squared MMD under the kernel (x·y / d + 1)³, of all pairs; see `mmd2`.

    Shapes: features [m, d], reference [n, d], m and n >= 2.

    Raises:
        ConfigError: a wrong shape, another d, or a value that is not finite.

    Source: arXiv:1801.01401, sec. 4.
    """
    return mmd2(mmd_set(features, KERNEL), mmd_set(reference, KERNEL, "reference"), KERNEL)
