"""Checks and conversions that the metrics share: wrong inputs raise, nothing wraps or is clipped."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xslim.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
Features = Tensor | npt.NDArray[np.floating]


def unit_images(images: Tensor, name: str = "images", dtype: torch.dtype = torch.float64) -> Tensor:
    """Return pictures as floats in [0, 1]; uint8 is divided by 255.

    Shapes: images [n, c, h, w] -> [n, c, h, w].

    Raises:
        ConfigError: another shape or type, no picture, or a value that is outside [0, 1] or not finite.
    """
    if images.ndim != 4 or images.numel() == 0:
        raise ConfigError(f"got shape {list(images.shape)}, need [n, c, h, w] with n > 0", key=name)
    if images.dtype == torch.uint8:
        return images.to(dtype) / 255
    if not images.is_floating_point():
        raise ConfigError(f"got {images.dtype}, need uint8, or floats in [0, 1]", key=name)
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise ConfigError(
            f"got values from {float(low):g} to {float(high):g}, need [0, 1]; scale and clamp the pictures",
            key=name,
        )
    return images.to(dtype)


def image_pair(
    images: Tensor, reference: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Return both batches as floats in [0, 1] on the device of `images`.

    Shapes: images, reference [n, c, h, w], the same.

    Raises:
        ConfigError: as `unit_images`, or the shapes differ.
    """
    if images.shape != reference.shape:
        raise ConfigError(
            f"got shape {list(reference.shape)}, need that of images, {list(images.shape)}", key="reference"
        )
    return (
        unit_images(images, "images", dtype),
        unit_images(reference, "reference", dtype).to(images.device),
    )


def feature_rows(features: Features, name: str = "features") -> FloatArray:
    """Return features as a float64 array.

    Shapes: features [n, d] -> [n, d], n >= 2 because every set metric divides by n - 1.

    Raises:
        ConfigError: another shape, fewer than 2 rows, or a value that is not finite.
    """
    if isinstance(features, Tensor):
        features = features.detach().cpu().double().numpy()
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < 2 or rows.shape[1] < 1:
        raise ConfigError(f"got shape {list(rows.shape)}, need [n, d] with n >= 2 and d >= 1", key=name)
    if not np.isfinite(rows).all():
        raise ConfigError("got a value that is not finite; check the pictures and the network", key=name)
    return rows
