"""A reference set of features: what the set metrics need of it is computed once, not once a trial."""

from __future__ import annotations

import zipfile
from functools import cached_property
from pathlib import Path

import numpy as np

from autotune.scoring.metrics.feature_stats import Normal
from autotune.scoring.metrics.inputs import Features, feature_rows
from autotune.scoring.metrics.mmd import Kernel, MmdSet
from xslim.errors import ConfigError


class ReferenceSet:
    """Features that set metrics compare with.

    Attributes:
        rows: the features, [n, d] float64.

    Raises:
        ConfigError: another shape, fewer than 2 rows, or a value that is not finite.
    """

    def __init__(self, features: Features) -> None:
        self.rows = feature_rows(features, "reference")
        self._mmd: dict[Kernel, MmdSet] = {}

    @cached_property
    def normal(self) -> Normal:
        """The normal distribution fitted to the set."""
        return Normal.of_rows(self.rows)

    def mmd(self, kernel: Kernel) -> MmdSet:
        """The set as one side of an MMD."""
        if kernel not in self._mmd:
            self._mmd[kernel] = MmdSet(self.rows, kernel, "reference")
        return self._mmd[kernel]

    @classmethod
    def load(cls, path: str, key: str) -> ReferenceSet:
        """Read an `.npz` with an array `features`, [n, d].

        Raises:
            ConfigError: there is no such file or array, or its content is at fault; names `key`.
        """
        if not Path(path).is_file():
            raise ConfigError(f"got {path!r}, which is no file; give the features' .npz, or null", key=key)
        try:
            # opened here: numpy leaves a broken file open
            with Path(path).open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                features = stored["features"].astype(np.float64)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
            raise ConfigError(f"got {path!r}, which is no .npz with an array `features`", key=key) from None
        try:
            return cls(features)
        except ConfigError as error:
            raise ConfigError(f"got {path!r}: {error.problem}", key=key) from None


def mmd_set(features: Features | ReferenceSet, kernel: Kernel, name: str = "features") -> MmdSet:
    """Return one side of an MMD, from the set's memory if it has one."""
    return features.mmd(kernel) if isinstance(features, ReferenceSet) else MmdSet(features, kernel, name)
