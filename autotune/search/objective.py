"""Objectives and bounds, and the names of the scalars that they speak of. Imports no numerics."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from xslim.errors import ConfigError
from xslim.policy.document import Document

# what may be an objective -> larger is better
OBJECTIVES = {
    "latency": False,  # candidate over uncached, 1 = as slow as uncached
    "compute_fraction": False,
    "lpips": False,
    "psnr": True,
    "ssim": True,
    "fid": False,
    "kid": False,
    "memory": False,  # bytes
}
# the worst value of each objective, minimised, for the hypervolume; fixed so that searches compare
HYPERVOLUME_REFERENCE = {
    "latency": 1.0,
    "compute_fraction": 1.0,
    "lpips": 0.25,
    "psnr": -15.0,
    "ssim": -0.5,
    "fid": 100.0,
    "kid": 1.0,
    "memory": 2.0**40,
}
# metric -> larger is better; those that are no objectives may be bounded
METRIC_NAMES = {
    **OBJECTIVES,
    "ms_ssim": True,
    "latent_rel_l1": False,
    "psnr_temporal": True,
    "ssim_temporal": True,
    "lpips_temporal": False,
    "clip_score": True,
    "image_reward": True,
    "cmmd": False,
}
LOWER_TAIL, UPPER_TAIL = 5, 95  # percentiles; the worse end of each metric
# one value a case, so they have a tail
PAIRED_NAMES = (
    "lpips",
    "psnr",
    "ssim",
    "ms_ssim",
    "latent_rel_l1",
    "psnr_temporal",
    "ssim_temporal",
    "lpips_temporal",
    "clip_score",
    "image_reward",
)


def tail_name(metric: str) -> str:
    """The scalar of a metric's worse end, such as `psnr_p5`."""
    return f"{metric}_p{LOWER_TAIL if METRIC_NAMES[metric] else UPPER_TAIL}"


# qualities that follow the error of a picture, and so the error model
UNPREDICTED = ("clip_score", "image_reward")  # of those that are paired
PREDICTED = (*(name for name in PAIRED_NAMES if name not in UNPREDICTED), "fid", "cmmd")
COSTS = ("latency", "compute_fraction", "memory")  # objectives that are no quality
TINY = 1e-12
SCALAR_NAMES = (*METRIC_NAMES, "speedup", *map(tail_name, PAIRED_NAMES))
# scalar -> the metric it is of
METRIC_OF = {**{name: name for name in SCALAR_NAMES}, **{tail_name(name): name for name in PAIRED_NAMES}}


def log_metric(name: str, value: float) -> float:
    """Logarithm of a metric as an error, smaller is better: of the squared error for PSNR, else of value.

    Larger-is-better metrics, which end at 1 as SSIM does, are taken by what they lack.
    """
    metric = METRIC_OF[name]
    if metric.startswith("psnr"):
        return -value * math.log(10) / 10
    return math.log(max(1.0 - value if METRIC_NAMES[metric] else value, TINY))


class Bound(Document):
    """A limit on one scalar; `min` or `max`."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.min is None) == (self.max is None):
            raise ConfigError("give min or max, one of them")
        return self

    @property
    def limit(self) -> float:
        """The limit itself."""
        return self.max if self.min is None and self.max is not None else self.min or 0.0

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
