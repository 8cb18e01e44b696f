"""Metrics of pictures and clips: one pure function a file, one entry of `METRICS` each.

Paired metrics compare a picture with the uncached output of the same case and give one value a case, so
workers can return rows; so do those that judge a picture by its prompt. Set metrics compare features with a
reference set, and only the driver forms them.
"""

from __future__ import annotations

from dataclasses import replace

from autotune.scoring.metrics.clip_score import clip_score
from autotune.scoring.metrics.cmmd import cmmd
from autotune.scoring.metrics.feature_stats import FeatureStats
from autotune.scoring.metrics.fid import FID_WARN_BELOW_N, fid
from autotune.scoring.metrics.judged import Judge, judged
from autotune.scoring.metrics.kid import kid
from autotune.scoring.metrics.latent_rel_l1 import latent_rel_l1
from autotune.scoring.metrics.lpips import lpips
from autotune.scoring.metrics.metric import Direction, Inputs, Kind, Metric, View
from autotune.scoring.metrics.psnr import PSNR_CAP_DB, psnr
from autotune.scoring.metrics.reference_set import ReferenceSet
from autotune.scoring.metrics.ssim import MS_SSIM_MIN_SIDE, WINDOW, ms_ssim, ssim
from xslim._registry import Registry
from xslim.errors import ConfigError

__all__ = [
    "METRICS",
    "PSNR_CAP_DB",
    "Direction",
    "FeatureStats",
    "Inputs",
    "Judge",
    "Kind",
    "Metric",
    "ReferenceSet",
    "View",
    "clip_score",
    "cmmd",
    "fid",
    "judged",
    "kid",
    "latent_rel_l1",
    "lpips",
    "ms_ssim",
    "psnr",
    "ssim",
]

_NET, _NET_AND_N = "{name}_{net}", "{name}_{net}@{n}"
_PSNR = Metric(
    name="psnr",
    function=psnr,
    inputs=Inputs.IMAGES,
    direction=Direction.MAXIMIZE,
    best=PSNR_CAP_DB,
    unit="dB",
)
_SSIM = Metric(
    name="ssim",
    function=ssim,
    inputs=Inputs.IMAGES,
    direction=Direction.MAXIMIZE,
    best=1.0,
    min_side=WINDOW,
)
_LPIPS = Metric(
    name="lpips",
    function=lpips,
    inputs=Inputs.MAPS,
    direction=Direction.MINIMIZE,
    best=0.0,
    version=2,
    label_format=_NET,
)
_CLIP_SCORE = Metric(
    name="clip_score",
    function=judged,
    inputs=Inputs.PROMPTS,
    direction=Direction.MAXIMIZE,
    best=100.0,
    kind=Kind.PROMPTED,
    label_format=_NET,
)
_FID = Metric(
    name="fid",
    function=fid,
    inputs=Inputs.FEATURES,
    direction=Direction.MINIMIZE,
    best=0.0,
    kind=Kind.SET,
    version=2,
    label_format=_NET_AND_N,
    warn_below_n=FID_WARN_BELOW_N,
)
_KID = replace(_FID, name="kid", function=kid, warn_below_n=None)


def _temporal(metric: Metric) -> Metric:
    """The same metric on the changes between neighbouring frames."""
    return replace(metric, name=f"{metric.name}_temporal", view=View.CHANGES, version=1)


_ALL = (
    _PSNR,
    _SSIM,
    replace(_SSIM, name="ms_ssim", function=ms_ssim, min_side=MS_SSIM_MIN_SIDE),
    _LPIPS,
    Metric(
        name="latent_rel_l1",
        function=latent_rel_l1,
        inputs=Inputs.LATENTS,
        direction=Direction.MINIMIZE,
        best=0.0,
    ),
    *map(_temporal, (_PSNR, _SSIM, _LPIPS)),
    _CLIP_SCORE,
    replace(_CLIP_SCORE, name="image_reward", best=None, label_format="{name}"),
    _FID,
    _KID,
    replace(_KID, name="cmmd", function=cmmd, version=1),
)

METRICS: Registry[Metric] = Registry("metric", {metric.name: metric for metric in _ALL}, ConfigError)
