"""The normal distribution fitted to a set of features: all that `fid` needs to know of it."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotune.scoring.metrics.inputs import Features, FloatArray, feature_rows
from xslim.errors import ConfigError

KEYS = ("mean", "covariance", "n")


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """A normal distribution by its mean and a factor of its covariance.

    Shapes: mean [d]; factor [d, rank], factor factorᵀ = covariance; trace: that of the covariance.
    """

    mean: FloatArray
    factor: FloatArray
    trace: float

    @classmethod
    def of_rows(cls, rows: FloatArray) -> Normal:
        """Fit it to rows [n, d], n >= 2; no [d, d] matrix is formed for fewer rows than dimensions."""
        mean = rows.mean(0)
        centred = (rows - mean) / np.sqrt(len(rows) - 1)
        trace = float(np.square(centred).sum())
        if len(rows) > rows.shape[1]:
            centred = np.linalg.qr(centred, mode="r")
        return cls(mean, centred.T, trace)


@dataclass(frozen=True, slots=True, eq=False)
class FeatureStats:
    """Mean, covariance (divided by n - 1) and number of a set of feature vectors.

    Shapes: mean [d]; covariance [d, d], symmetric.

    Raises:
        ConfigError: shapes that do not fit, n < 2, or a value that is not finite.
    """

    mean: FloatArray
    covariance: FloatArray
    n: int

    def __post_init__(self) -> None:
        d = self.mean.size
        if self.mean.shape != (d,) or d < 1 or self.covariance.shape != (d, d):
            raise ConfigError(
                f"got mean {list(self.mean.shape)} and covariance {list(self.covariance.shape)}, "
                "need [d] and [d, d]",
                key="covariance",
            )
        if self.n < 2:
            raise ConfigError(f"got {self.n}, need at least 2", key="n")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.covariance).all()):
            raise ConfigError("got a value that is not finite", key="covariance")

    @classmethod
    def from_features(cls, features: Features) -> FeatureStats:
        """Return the statistics of features.

        Shapes: features [n, d], n >= 2.

        Raises:
            ConfigError: another shape, or a value that is not finite.
        """
        rows = feature_rows(features)
        mean = rows.mean(0)
        centred = rows - mean
        return cls(mean, centred.T @ centred / (len(rows) - 1), len(rows))

    def normal(self) -> Normal:
        """Return the distribution; directions of the covariance that are rounding only are left out."""
        values, vectors = np.linalg.eigh((self.covariance + self.covariance.T) / 2)
        keep = values > max(0.0, values[-1]) * len(values) * np.finfo(np.float64).eps
        factor: FloatArray = vectors[:, keep] * np.sqrt(values[keep])
        return Normal(self.mean, factor, float(np.trace(self.covariance)))

    def save(self, path: Path) -> None:
        """Write the statistics to exactly `path`, as a compressed `.npz` without pickles."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:  # given a name, numpy would append .npz to it
            np.savez_compressed(file, mean=self.mean, covariance=self.covariance, n=np.int64(self.n))

    @classmethod
    def load(cls, path: Path) -> FeatureStats:
        """Return the statistics that `save` wrote.

        Raises:
            ConfigError: not such a file, or values that do not fit together.
            OSError: the file cannot be read.
        """
        try:
            # Opened here: numpy leaves a broken file open.
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                mean, covariance, n = (file[key].astype(np.float64) for key in KEYS)
                count = int(n)
        except (KeyError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
            raise ConfigError(
                f"not an .npz with {', '.join(KEYS)}; write it with FeatureStats.save", source=str(path)
            ) from error
        try:
            return cls(mean, covariance, count)
        except ConfigError as error:
            raise error.at(source=str(path)) from None
