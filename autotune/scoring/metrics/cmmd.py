"""CMMD: kernel distance between two sets of unit vectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.scoring.metrics.inputs import Features, FloatArray
from autotune.scoring.metrics.mmd import mmd2
from autotune.scoring.metrics.reference_set import ReferenceSet, mmd_set

SIGMA = 10.0
SCALE = 1000.0


@dataclass(frozen=True, slots=True)
class GaussianKernel:
    """exp(-|x - y|² / (2 σ²)) - 1 of rows scaled to unit length; a row of zeros stays one.

    The constant 1 cancels in an MMD; without it no digits are lost, because all values lie near it.
    """

    sigma: float = SIGMA

    def prepare(self, rows: FloatArray) -> FloatArray:
        """Return the rows at unit length."""
        length = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: FloatArray = rows / np.where(length > 0, length, 1.0)
        return unit

    def __call__(self, x: FloatArray, y: FloatArray) -> FloatArray:
        """Return the kernel of all pairs."""
        squared = np.square(x).sum(1)[:, None] + np.square(y).sum(1) - 2 * (x @ y.T)
        values: FloatArray = np.expm1(-np.maximum(squared, 0.0) / (2 * self.sigma**2))
        return values


KERNEL = GaussianKernel()


def cmmd(features: Features | ReferenceSet, reference: Features | ReferenceSet) -> float:
    """Return 1000 times the unbiased squared MMD of unit vectors under a Gaussian kernel, sigma 10.

    The published form, for any features: with CLIP's (ViT-L/14 at 336 pixels) it is CMMD. The paper states
    this unbiased estimator; the authors' code also counts each sample against itself, which adds about
    1000 (1 - mean kernel) (1/m + 1/n) and is never below 0. Ours may be, see `mmd2`.

    Shapes: features [m, d], reference [n, d], m and n >= 2.

    Raises:
        ConfigError: a wrong shape, another d, or a value that is not finite.

    Source: arXiv:2401.09603, sec. 4.
    """
    return SCALE * mmd2(mmd_set(features, KERNEL), mmd_set(reference, KERNEL, "reference"), KERNEL)
