"""CLIPScore: how well a picture fits its prompt."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from xslim.errors import ConfigError


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """Return max(100 cos, 0) of the embeddings of each picture and its prompt; 100 is best.

    The scale of 100 is the usual one of implementations (torchmetrics); the paper's is 2.5.

    Shapes: images, texts [n, d], the same -> [n] float64.

    Raises:
        ConfigError: shapes differ, or a value is not finite.

    Source: arXiv:2104.08718, sec. 3.
    """
    if images.ndim != 2 or images.shape != texts.shape:
        raise ConfigError(
            f"got shape {list(texts.shape)}, need that of images, {list(images.shape)}", key="texts"
        )
    score = 100 * F.cosine_similarity(images.double(), texts.double(), dim=1)
    if not torch.isfinite(score).all():
        raise ConfigError("got a value that is not finite; check the pictures and the network", key="images")
    return score.clamp(0, 100)
