"""Objectives and bounds, and the names of the scalars that they speak of. Imports no numerics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from xslim.errors import ConfigError
from xslim.policy.document import Document

# metric -> larger is better
METRIC_NAMES = {
    "latency": False,  # candidate over uncached, 1 = as slow as uncached
    "compute_fraction": False,
    "lpips": False,
    "psnr": True,
    "ssim": True,
    "fid": False,
    "kid": False,
    "memory": False,  # bytes
}
LOWER_TAIL, UPPER_TAIL = 5, 95  # percentiles; the worse end of each metric
PAIRED_NAMES = ("lpips", "psnr", "ssim")  # one value a picture, so they have a tail
SCALAR_NAMES = (
    *METRIC_NAMES,
    "speedup",
    *(f"{name}_p{LOWER_TAIL if METRIC_NAMES[name] else UPPER_TAIL}" for name in PAIRED_NAMES),
)


class Bound(Document):
    """A limit on one scalar; `min` or `max`."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise ConfigError("give min or max, one of them")
        return self

    def violation(self, value: float) -> float:
        """How far a value is outside, as a share of the limit; at most 0 when it holds."""
        if self.min is not None:
            return (self.min - value) / max(abs(self.min), 1e-12)
        limit = self.max if self.max is not None else 0.0
        return (value - limit) / max(abs(limit), 1e-12)


def violations(bounds: Mapping[str, Bound], scalars: Mapping[str, float]) -> dict[str, float]:
    """One number a bound, above 0 where it is broken; in the order of the names.

    Raises:
        ConfigError: a bound names a scalar that is not measured.
    """
    result = {}
    for name in sorted(bounds):
        if name not in scalars:
            known = ", ".join(sorted(scalars))
            raise ConfigError(f"unknown scalar; measured are {known}", key=f"bounds.{name}")
        result[name] = bounds[name].violation(scalars[name])
    return result
