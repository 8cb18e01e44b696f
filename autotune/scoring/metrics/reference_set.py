"""A reference set of features: what the set metrics need of it is computed once, not once a trial."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autotune.scoring.metrics.feature_stats import FeatureStats, Normal
from autotune.scoring.metrics.inputs import MIN_ROWS, Features, FloatArray, feature_rows
from autotune.scoring.metrics.mmd import Kernel, MmdSet
from xslim.errors import ConfigError


class ReferenceSet:
    """Features that set metrics compare with, or their statistics, which serve `fid` alone.

    Attributes:
        rows: the features, [n, d] float64; None of statistics.

    Raises:
        ConfigError: another shape, fewer than 2 rows, or a value that is not finite.
    """

    def __init__(self, reference: Features | FeatureStats) -> None:
        self._stats = reference if isinstance(reference, FeatureStats) else None
        self.rows = None if isinstance(reference, FeatureStats) else feature_rows(reference, "reference")
        self._mmd: dict[Kernel, MmdSet] = {}

    @property
    def dimensions(self) -> int:
        """Numbers a picture."""
        return self.normal.mean.size

    @cached_property
    def normal(self) -> Normal:
        """The normal distribution fitted to the set."""
        if self._stats is not None:
            return self._stats.normal()
        return Normal.of_rows(self._features())

    def mmd(self, kernel: Kernel) -> MmdSet:
        """The set as one side of an MMD.

        Raises:
            ConfigError: it holds statistics.
        """
        if kernel not in self._mmd:
            self._mmd[kernel] = MmdSet(self._features(), kernel, "reference")
        return self._mmd[kernel]

    def _features(self) -> FloatArray:
        if self.rows is None:
            raise ConfigError("holds a mean and a covariance; a kernel needs the features", key="reference")
        return self.rows

    @classmethod
    def load(cls, path: str, key: str) -> ReferenceSet:
        """Read an `.npz` with an array `features` [n, d], or with their statistics.

        Statistics are those of `FeatureStats.save`, or `mu` and `sigma` as pytorch-fid writes them.

        Raises:
            ConfigError: there is no such file or array, or its content is at fault; names `key`.
        """
        if not Path(path).is_file():
            raise ConfigError(f"got {path!r}, which is no file; give the features' .npz, or null", key=key)
        try:
            # opened here: numpy leaves a broken file open
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                return cls(_reference(stored))
        except ConfigError as error:
            raise ConfigError(f"got {path!r}: {error.problem}", key=key) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
            raise ConfigError(f"got {path!r}, which is no .npz with an array `features`", key=key) from None


def _reference(stored: Mapping[str, npt.NDArray[np.float64]]) -> FloatArray | FeatureStats:
    if "features" not in stored and "mu" in stored:
        mean, covariance = (stored[name].astype(np.float64) for name in ("mu", "sigma"))
        return FeatureStats(mean, covariance, MIN_ROWS)  # the file does not tell how many
    if "features" not in stored and "mean" in stored:
        mean, covariance = (stored[name].astype(np.float64) for name in ("mean", "covariance"))
        return FeatureStats(mean, covariance, int(stored["n"]))
    features: FloatArray = stored["features"].astype(np.float64)
    return features


def mmd_set(features: Features | ReferenceSet, kernel: Kernel, name: str = "features") -> MmdSet:
    """Return one side of an MMD, from the set's memory if it has one."""
    return features.mmd(kernel) if isinstance(features, ReferenceSet) else MmdSet(features, kernel, name)
