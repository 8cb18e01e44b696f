"""Checks and conversions that the metrics share: wrong inputs raise, nothing wraps or is clipped."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from xslim.errors import ConfigError

FloatArray = npt.NDArray[np.float64]
MIN_ROWS = 2  # every set metric divides by n - 1
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


def clip_chunks(images: Tensor, changes: bool, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Cut the frames of clips into pieces, with the number of the case that each frame is from.

    Shapes: images [n, c, h, w] or [n, t, c, h, w] -> pieces of at most `size` of n * t frames
    [m, c, h, w] and [m]; with `changes` of n * (t - 1) pictures (next - frame + 1) / 2.

    Raises:
        ConfigError: another shape or type, or values out of range.
    """
    clips = images if images.ndim == 5 else images[:, None]
    frames = clips.shape[1] - changes
    for start in range(0, len(clips) * frames, size):
        number = torch.arange(start, min(start + size, len(clips) * frames))
        case, frame = number // frames, number % frames
        chunk = unit_images(clips[case, frame], dtype=torch.float32)
        if changes:
            chunk = (unit_images(clips[case, frame + 1], dtype=torch.float32) - chunk + 1) / 2
        yield chunk, case


def feature_rows(features: Features, name: str = "features") -> FloatArray:
    """Return features as a float64 array.

    Shapes: features [n, d] -> [n, d], n >= `MIN_ROWS`.

    Raises:
        ConfigError: another shape, too few rows, or a value that is not finite.
    """
    if isinstance(features, Tensor):
        features = features.detach().cpu().double().numpy()
    rows = np.asarray(features, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] < 1:
        raise ConfigError(f"got shape {list(rows.shape)}, need [n, d] with d >= 1", key=name)
    if len(rows) < MIN_ROWS:
        raise ConfigError(
            f"got {len(rows)} pictures, a set metric needs at least {MIN_ROWS}; give more cases", key=name
        )
    if not np.isfinite(rows).all():
        raise ConfigError("got a value that is not finite; check the pictures and the network", key=name)
    return rows
