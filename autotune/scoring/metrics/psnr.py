"""Peak signal-to-noise ratio of each picture."""

from __future__ import annotations

import torch
from torch import Tensor

from autotune.scoring.metrics.inputs import image_pair

# Equal pictures would give inf, which JSON cannot write and a sampler cannot rank. At 100 dB the root
# mean square error is 1e-5 of the range, 1/390 of an 8-bit level: what lies beyond is float32 rounding.
PSNR_CAP_DB = 100.0


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Return 10 log10(1 / MSE) of each picture, in dB, at most `PSNR_CAP_DB`.

    The mean of these is not the PSNR of the pooled error, which is what torchmetrics gives by default.

    Shapes: images, reference [n, c, h, w], uint8 or floats in [0, 1] -> [n] float64.

    Raises:
        ConfigError: shapes differ, or values are out of range.

    Source: Horé & Ziou, ICPR 2010 (doi:10.1109/ICPR.2010.579), eq. 1, with peak 1.
    """
    a, b = image_pair(images, reference)
    mse = (a - b).square().flatten(1).mean(1)
    return -10 * torch.log10(mse.clamp(min=10 ** (-PSNR_CAP_DB / 10)))
