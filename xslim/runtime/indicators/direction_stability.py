"""`direction_stability`: how much the residual's path turned over the last three computed steps.

Source: the trajectory stability of TC-Pade, arXiv:2603.02943, in our reading: as printed, with the
difference of the two directions, a steady path would count as unstable. Here u1, u2 are the last two
changes of the computed residual, each divided by its length, and the signal is 1 - |u1 + u2| / 2: 0 on a
straight path, 1 when the residual turns back.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xslim.policy.decision import Action
from xslim.policy.policy import RESIDUALS_READ
from xslim.runtime.indicators.base import Features, Measured

RESIDUALS = RESIDUALS_READ["direction_stability"]


class DirectionStability:
    """Reads the residuals that the branch keeps, and holds nothing."""

    def measure(self, features: Features) -> Measured | None:
        """Return the signal; defined for samples that have computed three residuals."""
        defined = tuple(count >= RESIDUALS for count in features.known)
        if not any(defined):
            return None
        newest, middle, oldest = (r.flatten(1).float() for r in features.residuals[:RESIDUALS])
        return Measured(_turn(newest - middle, middle - oldest), defined)

    def observe(self, output: Tensor, actions: tuple[Action, ...]) -> None:
        """Nothing to note."""

    def tensors(self) -> list[Tensor]:
        """Nothing is held."""
        return []


def _turn(new: Tensor, old: Tensor) -> Tensor:
    """1 - |u1 + u2| / 2 per sample, 0 where a change has no length. Shapes: [batch, n] -> [batch]."""
    lengths = torch.linalg.vector_norm(new, dim=1) * torch.linalg.vector_norm(old, dim=1)
    cosine = (new * old).sum(1) / lengths
    turned = 1 - ((1 + cosine).clamp(0.0, 2.0) / 2).sqrt()  # |u1 + u2|**2 = 2 + 2 cosine
    return torch.where(lengths == 0, 0.0, turned)
