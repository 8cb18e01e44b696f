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

_PSNR = Metric(
    name="psnr",
    function=psnr,
    inputs=Inputs.IMAGES,
    kind=Kind.PAIRED,
    direction=Direction.MAXIMIZE,
    unit="dB",
    version=1,
    best=PSNR_CAP_DB,
    label_format="psnr",
)
_SSIM = Metric(
    name="ssim",
    function=ssim,
    inputs=Inputs.IMAGES,
    kind=Kind.PAIRED,
    direction=Direction.MAXIMIZE,
    unit="",
    version=1,
    best=1.0,
    label_format="ssim",
    min_side=WINDOW,
)
_LPIPS = Metric(
    name="lpips",
    function=lpips,
    inputs=Inputs.MAPS,
    kind=Kind.PAIRED,
    direction=Direction.MINIMIZE,
    unit="",
    version=2,
    best=0.0,
    label_format="lpips_{net}",
)
_CLIP_SCORE = Metric(
    name="clip_score",
    function=judged,
    inputs=Inputs.PROMPTS,
    kind=Kind.PROMPTED,
    direction=Direction.MAXIMIZE,
    unit="",
    version=1,
    best=100.0,
    label_format="clip_score_{net}",
)
_FID = Metric(
    name="fid",
    function=fid,
    inputs=Inputs.FEATURES,
    kind=Kind.SET,
    direction=Direction.MINIMIZE,
    unit="",
    version=2,
    best=0.0,
    label_format="fid_{net}@{n}",
    warn_below_n=FID_WARN_BELOW_N,
)
_KID = replace(_FID, name="kid", function=kid, label_format="kid_{net}@{n}", warn_below_n=None)


def _temporal(metric: Metric) -> Metric:
    """The same metric on the changes between neighbouring frames."""
    label = metric.label_format.replace(metric.name, f"{metric.name}_temporal", 1)
    return replace(metric, name=f"{metric.name}_temporal", label_format=label, view=View.CHANGES, version=1)


_ALL = (
    _PSNR,
    _SSIM,
    replace(_SSIM, name="ms_ssim", function=ms_ssim, label_format="ms_ssim", min_side=MS_SSIM_MIN_SIDE),
    _LPIPS,
    Metric(
        name="latent_rel_l1",
        function=latent_rel_l1,
        inputs=Inputs.LATENTS,
        kind=Kind.PAIRED,
        direction=Direction.MINIMIZE,
        unit="",
        version=1,
        best=0.0,
        label_format="latent_rel_l1",
    ),
    *map(_temporal, (_PSNR, _SSIM, _LPIPS)),
    _CLIP_SCORE,
    replace(_CLIP_SCORE, name="image_reward", best=None, label_format="image_reward"),
    _FID,
    _KID,
    replace(_KID, name="cmmd", function=cmmd, label_format="cmmd_{net}@{n}", version=1),
)

METRICS: Registry[Metric] = Registry("metric", {metric.name: metric for metric in _ALL}, ConfigError)
