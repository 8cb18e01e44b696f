"""LPIPS-style distance on the stage maps of the digit classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from autotune.scoring.metrics.inputs import image_pair, unit_images
from autotune.scoring.nets.digits import DigitsClassifier
from xslim.errors import ConfigError

EPSILON = 1e-10  # keeps a zero vector zero; the value of the LPIPS authors' normalize_tensor
BATCH = 256  # fixed, so that a value does not move with the caller's batch


def lpips_digits(maps_a: Sequence[Tensor], maps_b: Sequence[Tensor]) -> Tensor:
    """Return the perceptual distance of each pair of pictures, from their stage maps; 0 is equal.

    Vectors are scaled to unit length over channels, squared differences summed over channels, averaged
    over space and then over stages. LPIPS learns a weight per channel and sums the stages; here all
    weights are uniform, since no human judgements of digits exist, so values are not comparable with
    published LPIPS. A value lies in [0, 4].

    Shapes: maps_a, maps_b: one [n, c, h, w] per stage, the same -> [n] float64.

    Raises:
        ConfigError: no stage, shapes differ, or a value is not finite.

    Source: arXiv:1801.03924, eq. 1 with w = 1 (twice the cosine distance of each position).
    """
    if not maps_a or [m.shape for m in maps_a] != [m.shape for m in maps_b]:
        raise ConfigError(
            f"got shapes {[list(m.shape) for m in maps_b]}, need those of maps_a, "
            f"{[list(m.shape) for m in maps_a]}, at least one",
            key="maps_b",
        )
    stages = [
        (_unit(a) - _unit(b)).square().sum(1).flatten(1).mean(1) for a, b in zip(maps_a, maps_b, strict=True)
    ]
    distance = torch.stack(stages).mean(0)
    if not distance.isfinite().all():
        raise ConfigError("got a value that is not finite; check the pictures and the network", key="maps")
    return distance


def lpips_digits_of_images(images: Tensor, reference: Tensor, net: DigitsClassifier) -> Tensor:
    """Return `lpips_digits` of each pair of pictures, in fixed batches on the network's device.

    Shapes: images, reference [n, 1 or 3, h, w], uint8 or floats in [0, 1] -> [n] float64, on the CPU.

    Raises:
        ConfigError: shapes differ, or values are out of range.
    """
    a, b = image_pair(images, reference, torch.float32)
    device = next(net.parameters()).device
    pairs = zip(torch.split(a, BATCH), torch.split(b, BATCH), strict=True)
    with torch.no_grad():
        return torch.cat(
            [lpips_digits(net(x.to(device)).maps, net(y.to(device)).maps).cpu() for x, y in pairs]
        )


def digits_features(images: Tensor, net: DigitsClassifier) -> Tensor:
    """Return the classifier's features of each picture, for `fid` and `kid`, in fixed batches.

    Shapes: images [n, 1 or 3, h, w], uint8 or floats in [0, 1] -> [n, 64] float32, on the CPU.

    Raises:
        ConfigError: a wrong shape, or values are out of range.
    """
    device = next(net.parameters()).device
    batches = torch.split(unit_images(images, dtype=torch.float32), BATCH)
    with torch.no_grad():
        features: Tensor = torch.cat([net(x.to(device)).features.float().cpu() for x in batches])
    return features


def _unit(maps: Tensor) -> Tensor:
    maps = maps.double()
    length: Tensor = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    return maps / (length + EPSILON)
