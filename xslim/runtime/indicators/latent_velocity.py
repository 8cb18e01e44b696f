"""`latent_velocity`: change of the latent, scaled by how fast the output follows it.

Source: EasyCache, arXiv:2507.02860. k = mean|v - v'| / mean|x - x'| over the last two computed steps; the
signal is k * mean|x_s - x_{s-1}| / mean|v_last|.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xslim.policy.decision import Action
from xslim.runtime.indicators.base import Features, Measured, mean_abs


class LatentVelocity:
    """Holds the latents and outputs of the last computed step, and the rate, per sample."""

    def __init__(self) -> None:
        self._latent: Tensor | None = None  # of the previous step
        self._computed: tuple[Tensor, Tensor] | None = None  # latent and output of the last computed step
        self._rate: Tensor | None = None  # [batch]
        self._count: list[int] = []

    def measure(self, features: Features) -> Measured | None:
        """Return the signal; defined for samples that have computed two steps."""
        new, old = features.latent, self._latent
        self._latent = new
        if old is None or self._computed is None or self._rate is None:
            return None
        speed = mean_abs(self._computed[1]).clamp_min(1e-12)
        values = self._rate * mean_abs(new - old) / speed
        return Measured(values, tuple(count >= 2 for count in self._count))

    def observe(self, output: Tensor, actions: tuple[Action, ...]) -> None:
        """Update the rate of the samples that computed."""
        latent = self._latent
        computed = tuple(action is not Action.SKIP for action in actions)
        if latent is None or not any(computed):
            return
        self._count = [n + c for n, c in zip(self._count or [0] * len(computed), computed, strict=True)]
        if self._computed is None or self._rate is None:
            self._computed = (latent, output)
            self._rate = torch.zeros(len(computed), device=output.device)
            return
        old_latent, old_output = self._computed
        rate = mean_abs(output - old_output) / mean_abs(latent - old_latent).clamp_min(1e-12)
        if all(computed):
            self._computed, self._rate = (latent, output), rate
            return
        mask = torch.tensor(computed, device=output.device)
        self._rate = torch.where(mask, rate, self._rate)
        wide = mask.view(-1, *[1] * (output.dim() - 1))
        self._computed = (
            torch.where(wide, latent, old_latent),
            torch.where(wide, output, old_output),
        )

    def tensors(self) -> list[Tensor]:
        """Latents, output and rate."""
        held = [self._latent, self._rate, *(self._computed or ())]
        return [tensor for tensor in held if tensor is not None]
