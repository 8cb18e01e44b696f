"""What a pipeline draws: pictures or clips, and the latents they were decoded from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from autotune.scoring.measurement import Pictures


@dataclass(frozen=True, slots=True)
class Drawn:
    """The output of one batch of cases, fp32 on the CPU.

    Attributes:
        images: pictures [n, c, h, w] or clips [n, t, c, h, w], in [0, 1].
        latents: the scheduler's last output as the pipeline holds it, [n, …].
    """

    images: Tensor
    latents: Tensor

    @property
    def is_video(self) -> bool:
        """Whether clips were drawn."""
        return self.images.ndim == 5


def as_pictures(images: Tensor) -> Pictures:
    """Bytes of pictures or clips in [0, 1], channels last. Shapes: [n, …, c, h, w] -> [n, …, h, w, c]."""
    scaled = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    found: Pictures = scaled.movedim(-3, -1).numpy()
    return found
