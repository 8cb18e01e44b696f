"""Structural similarity of each picture."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from autotune.scoring.metrics.inputs import image_pair
from xslim.errors import ConfigError

WINDOW = 11  # the window of the original, with SIGMA; torchmetrics and scikit-image derive it from SIGMA
SIGMA = 1.5
CHUNK_VALUES = 2**20  # bounds the working copies to about 100 MB; the result does not depend on it


def ssim(images: Tensor, reference: Tensor) -> Tensor:
    """Return the mean structural similarity of each picture, at most 1.

    Gaussian window of 11 pixels, sigma 1.5, data range 1, K = (0.01, 0.03), channels averaged. As in the
    original only windows that lie within the picture count, so scikit-image gives the same value;
    torchmetrics' own mean also counts windows over a mirrored border.

    Shapes: images, reference [n, c, h, w], uint8 or floats in [0, 1], h and w at least 11 -> [n] float64.

    Raises:
        ConfigError: shapes differ, a side is shorter than the window, or values are out of range.

    Source: Wang et al., IEEE TIP 13(4), 2004 (doi:10.1109/TIP.2003.819861), eq. 13 to 17; also
        arXiv:2006.13846.
    """
    a, b = image_pair(images, reference)
    if min(a.shape[-2:]) < WINDOW:
        raise ConfigError(f"got {list(a.shape)}, need sides of at least {WINDOW} pixels", key="images")
    edge = WINDOW // 2
    chunk = max(1, CHUNK_VALUES // a[0].numel())
    values = []
    for x, y in zip(torch.split(a, chunk), torch.split(b, chunk), strict=True):
        image: Tensor
        _, image = structural_similarity_index_measure(
            x, y, sigma=SIGMA, data_range=1.0, reduction="none", return_full_image=True
        )
        values.append(image[..., edge:-edge, edge:-edge].flatten(1).mean(1))
    return torch.cat(values).clamp(max=1.0)  # rounding exceeds 1 on flat pictures
