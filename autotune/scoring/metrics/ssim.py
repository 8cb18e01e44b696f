"""Structural similarity of each picture, at one scale and at five."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from autotune.scoring.metrics.inputs import image_pair
from xslim.errors import ConfigError

WINDOW = 11  # this and the next three are the constants of the original
SIGMA = 1.5
C1 = 0.01**2  # for data range 1
C2 = 0.03**2
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first, as in the original
# the coarsest of the five scales must still hold one window
MS_SSIM_MIN_SIDE = (WINDOW - 1) * 2 ** (len(SCALE_WEIGHTS) - 1) + 1
CHUNK_VALUES = 2**20  # bounds the working copies to about 100 MB; the result does not depend on it


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Return the mean structural similarity of each picture, at most 1.

    Gaussian window of 11 pixels, sigma 1.5, data range 1, K = (0.01, 0.03), channels averaged. As in the
    original only windows that lie within the picture count, as in scikit-image's mean; torchmetrics' mean
    also counts windows over a mirrored border. Float64, because in float32 the variances cancel to errors
    of 1e-4 on bright flat areas; separable, which makes that faster than torchmetrics' 2-D convolution.

    Shapes: images, reference [n, c, h, w], uint8 or floats in [0, 1], h and w at least 11 -> [n] float64.

    Raises:
        ConfigError: shapes differ, a side is shorter than the window, or values are out of range.

    Source: Wang et al., IEEE TIP 13(4), 2004 (doi:10.1109/TIP.2003.819861), eq. 13 to 17; see also
        arXiv:2006.13846.
    """
    return _by_chunks(images, reference, WINDOW, _one_scale)


def ms_ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Return the multi-scale structural similarity of each picture, in [0, 1].

    The contrast terms of five scales and the luminance term of the coarsest, each to the power of its
    weight. Halved by means of 2x2 pixels, of what is there at an odd border. Terms below 0 count as 0, as in
    the usual implementations: a power of them is not real.

    Shapes: images, reference [n, c, h, w], uint8 or floats in [0, 1], h and w at least 161 -> [n] float64.

    Raises:
        ConfigError: shapes differ, a side is too short, or values are out of range.

    Source: Wang, Simoncelli & Bovik, Asilomar 2003 (doi:10.1109/ACSSC.2003.1292216), eq. 7.
    """
    return _by_chunks(images, reference, MS_SSIM_MIN_SIDE, _five_scales)


def _by_chunks(
    images: Tensor, reference: Tensor, side: int, function: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    a, b = image_pair(images, reference)
    if min(a.shape[-2:]) < side:
        raise ConfigError(f"got {list(a.shape)}, need sides of at least {side} pixels", key="images")
    chunk = max(1, CHUNK_VALUES // a[0].numel())
    pairs = zip(torch.split(a, chunk), torch.split(b, chunk), strict=True)
    return torch.cat([function(x, y) for x, y in pairs]).clamp(max=1.0)  # against rounding


def _one_scale(x: Tensor, y: Tensor) -> Tensor:
    luminance, contrast = _terms(x, y)
    return (luminance * contrast).flatten(1).mean(1)


def _five_scales(x: Tensor, y: Tensor) -> Tensor:
    """Product over scales for every channel, then the mean over channels: [n]."""
    product = x.new_ones(x.shape[:2])
    for scale, weight in enumerate(SCALE_WEIGHTS):
        if scale:
            x, y = (F.avg_pool2d(z, 2, ceil_mode=True) for z in (x, y))
        luminance, contrast = _terms(x, y)
        last = scale == len(SCALE_WEIGHTS) - 1
        term = luminance * contrast if last else contrast
        product = product * term.mean((-2, -1)).clamp_min(0) ** weight
    return product.mean(1)


def _terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the luminance term and the product of contrast and structure: [n, c, h - 10, w - 10] each."""
    mean_x, mean_y = _blur(x), _blur(y)
    variance_x, variance_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return luminance, (2 * covariance + C2) / (variance_x + variance_y + C2)


def _blur(x: Tensor) -> Tensor:
    """Filter with the window along both axes, without padding."""
    weights = [math.exp(-((i - WINDOW // 2) ** 2) / (2 * SIGMA**2)) for i in range(WINDOW)]
    for axis in (-1, -2):
        size = x.shape[axis] - WINDOW + 1
        total = x.narrow(axis, 0, size) * (weights[0] / sum(weights))
        for i, weight in enumerate(weights[1:], 1):
            total.add_(x.narrow(axis, i, size), alpha=weight / sum(weights))
        x = total
    return x
