"""Relative L1 distance of latents."""

from __future__ import annotations

import torch
from torch import Tensor

from xslim.errors import ConfigError

TINY = 1e-12  # keeps a reference of zeros finite


def latent_rel_l1(latents: Tensor, reference: Tensor) -> Tensor:
    """Return |a - b|₁ / |b|₁ of each case, 0 is equal.

    The error before the decoder, which hides some of it and adds none of ours; free of any network.

    Shapes: latents, reference [n, …], the same, n > 0 -> [n] float64.

    Raises:
        ConfigError: shapes differ, there is no value, or one is not finite.
    """
    if latents.shape != reference.shape or latents.numel() == 0:
        raise ConfigError(
            f"got shape {list(reference.shape)}, need that of latents, {list(latents.shape)}, not empty",
            key="reference",
        )
    a, b = latents.flatten(1).double(), reference.to(latents.device).flatten(1).double()
    distance = (a - b).abs().sum(1) / b.abs().sum(1).clamp_min(TINY)
    if not torch.isfinite(distance).all():
        raise ConfigError("got a value that is not finite; check the latents", key="latents")
    return distance
