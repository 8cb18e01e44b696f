"""Metrics of pictures: one pure function a file, one entry of `METRICS` each.

Paired metrics compare a picture with the uncached output of the same case and give one value a picture, so
workers can return rows; set metrics compare features with a reference set, and only the driver forms them.
"""

from __future__ import annotations

from autotune.scoring.metrics.feature_stats import FeatureStats
from autotune.scoring.metrics.fid import FID_WARN_BELOW_N, fid
from autotune.scoring.metrics.kid import kid
from autotune.scoring.metrics.lpips_digits import digits_features, lpips_digits, lpips_digits_of_images
from autotune.scoring.metrics.metric import Direction, Inputs, Kind, Metric
from autotune.scoring.metrics.psnr import PSNR_CAP_DB, psnr
from autotune.scoring.metrics.ssim import ssim
from xslim._registry import Registry
from xslim.errors import ConfigError

__all__ = [
    "METRICS",
    "PSNR_CAP_DB",
    "Direction",
    "FeatureStats",
    "Inputs",
    "Kind",
    "Metric",
    "digits_features",
    "fid",
    "kid",
    "lpips_digits",
    "lpips_digits_of_images",
    "psnr",
    "ssim",
]

_ALL = (
    Metric(
        name="psnr",
        function=psnr,
        inputs=Inputs.IMAGES,
        kind=Kind.PAIRED,
        direction=Direction.MAXIMIZE,
        unit="dB",
        version=1,
        best=PSNR_CAP_DB,
        label_format="psnr",
    ),
    Metric(
        name="ssim",
        function=ssim,
        inputs=Inputs.IMAGES,
        kind=Kind.PAIRED,
        direction=Direction.MAXIMIZE,
        unit="",
        version=1,
        best=1.0,
        label_format="ssim",
    ),
    Metric(
        name="lpips",
        function=lpips_digits,
        inputs=Inputs.MAPS,
        kind=Kind.PAIRED,
        direction=Direction.MINIMIZE,
        unit="",
        version=1,
        best=0.0,
        label_format="lpips_{net}",
    ),
    Metric(
        name="fid",
        function=fid,
        inputs=Inputs.FEATURES,
        kind=Kind.SET,
        direction=Direction.MINIMIZE,
        unit="",
        version=1,
        best=0.0,
        label_format="fid_{net}@{n}",
        warn_below_n=FID_WARN_BELOW_N,
    ),
    Metric(
        name="kid",
        function=kid,
        inputs=Inputs.FEATURES,
        kind=Kind.SET,
        direction=Direction.MINIMIZE,
        unit="",
        version=1,
        best=0.0,
        label_format="kid_{net}@{n}",
    ),
)

METRICS: Registry[Metric] = Registry("metric", {metric.name: metric for metric in _ALL}, ConfigError)
