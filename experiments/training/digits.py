"""The training data: scikit-learn's bundled UCI handwritten digits, upsampled to 32x32.

Source: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
Repository, 1998, doi:10.24432/C50P49 (CC BY 4.0), as shipped with scikit-learn.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits

IMAGE_SIZE = 32
PLAIN_SIZE = 8
NUM_CLASSES = 10
NULL_CLASS = 1000  # DiTPipeline's label for the unconditional branch


def plain_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the 1,797 plain digits and their labels.

    Shapes: images [1797, 1, 8, 8] in [0, 1]; labels [1797] in 0..9.
    """
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16.0
    return images, torch.tensor(data.target, dtype=torch.int64)


def training_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Return the digits as the models see them.

    Shapes: images [1797, 1, 32, 32] in [-1, 1]; labels [1797].
    """
    images, labels = plain_digits()
    size = (IMAGE_SIZE, IMAGE_SIZE)
    images = F.interpolate(images, size=size, mode="bicubic", align_corners=False)
    return images.clamp(0, 1) * 2 - 1, labels


def to_plain(images: torch.Tensor) -> torch.Tensor:
    """Area-downsample pictures to the plain digits' size.

    Shapes: images [n, 1, 32, 32] in [0, 1] -> [n, 64] in [0, 1].
    """
    return F.adaptive_avg_pool2d(images, PLAIN_SIZE).flatten(1)
