"""Fréchet distance between two sets of features."""

from __future__ import annotations

import numpy as np

from autotune.scoring.metrics.feature_stats import FeatureStats, Normal
from autotune.scoring.metrics.inputs import Features, feature_rows
from autotune.scoring.metrics.reference_set import ReferenceSet
from xslim.errors import ConfigError

# Below, the estimate is mostly bias (same distribution, 512 dimensions: 631 at n = 64, 79 at 1024, 20 at
# 4096), and the bias differs between candidates: arXiv:1911.07023.
FID_WARN_BELOW_N = 2000

Distribution = Features | FeatureStats | ReferenceSet


def fid(features: Distribution, reference: Distribution) -> float:
    """Return the Fréchet distance of the normal distributions fitted to both sets; 0 is equal.

    |m1 - m2|² + tr C1 + tr C2 - 2 tr (C1 C2)^½, in float64. With C1 = A Aᵀ and C2 = B Bᵀ the last trace is
    the sum of the singular values of Aᵀ B: real, the same for (x, y) and (y, x), and safe for the singular
    covariances of fewer samples than dimensions, where a matrix square root is not. There A and B are the
    centred rows themselves, so Aᵀ B has one row and column a sample and no [d, d] matrix is formed. Rounding
    below 0 is set to 0. Biased upwards for few samples: print it with its sample count.

    Shapes: features, reference [n, d] with n >= 2 (n may differ), or what was computed of them before.

    Raises:
        ConfigError: a wrong shape, another d, or a value that is not finite.

    Source: arXiv:1706.08500, eq. 6.
    """
    a, b = _normal(features, "features"), _normal(reference, "reference")
    if a.mean.shape != b.mean.shape:
        raise ConfigError(f"got d = {b.mean.size}, need that of features, {a.mean.size}", key="reference")
    cross = np.linalg.svd(a.factor.T @ b.factor, compute_uv=False).sum()
    shift = np.square(a.mean - b.mean).sum()
    return max(0.0, float(shift + a.trace + b.trace - 2 * cross))


def _normal(value: Distribution, name: str) -> Normal:
    if isinstance(value, FeatureStats):
        return value.normal()
    return value.normal if isinstance(value, ReferenceSet) else Normal.of_rows(feature_rows(value, name))
