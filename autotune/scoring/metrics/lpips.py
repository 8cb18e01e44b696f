"""LPIPS: distance of two pictures on the maps of a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from xslim.errors import ConfigError

EPSILON = 1e-10  # keeps a zero vector zero; the value of the LPIPS authors' normalize_tensor


def lpips(
    maps_a: Sequence[Tensor], maps_b: Sequence[Tensor], heads: Sequence[Tensor] | None = None
) -> Tensor:
    """Return the perceptual distance of each pair of pictures, from their maps; 0 is equal.

    Vectors are scaled to unit length over channels; squared differences are weighted, summed over channels
    and averaged over space. With the learned weights the stages are summed: published LPIPS. Without (no
    human judgements of digits exist) all weights are 1 and stages are averaged: a value then lies in [0, 4]
    and is not comparable with published LPIPS.

    Shapes: maps_a, maps_b: one [n, c, h, w] per stage, the same; heads: one [c] per stage -> [n] float64.

    Raises:
        ConfigError: no stage, shapes differ, or a value is not finite.

    Source: arXiv:1801.03924, eq. 1.
    """
    if not maps_a or [m.shape for m in maps_a] != [m.shape for m in maps_b]:
        raise ConfigError(
            f"got shapes {[list(m.shape) for m in maps_b]}, need those of maps_a, "
            f"{[list(m.shape) for m in maps_a]}, at least one",
            key="maps_b",
        )
    squared = [(_unit(a) - _unit(b)).square() for a, b in zip(maps_a, maps_b, strict=True)]
    if heads is None:
        stages = torch.stack([_over_space(s.sum(1)) for s in squared]).mean(0)
    else:
        weighted = [torch.einsum("nchw,c->nhw", s, h.to(s)) for s, h in zip(squared, heads, strict=True)]
        stages = torch.stack([_over_space(s) for s in weighted]).sum(0)
    if not stages.isfinite().all():
        raise ConfigError("got a value that is not finite; check the pictures and the network", key="maps")
    return stages


def _over_space(values: Tensor) -> Tensor:
    return values.double().flatten(1).mean(1)


def _unit(maps: Tensor) -> Tensor:
    maps = maps if maps.dtype == torch.float64 else maps.float()
    length: Tensor = torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    return maps / (length + EPSILON)
