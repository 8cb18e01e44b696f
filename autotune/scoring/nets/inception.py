"""The Inception-v3 of FID: the 2015 ImageNet graph whose pooled features published FIDs use.

It differs from torchvision's in the pooling branches (means leave the padding out; the last block takes the
maximum) and in how pictures enter: 8 bits, resized to 299 as TensorFlow 1 did, (x - 128) / 128.
Module names are those of the published weights, `pt_inception-2015-12-05-6726825d.pth`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from autotune.scoring.nets.seen import Seen, colour
from autotune.scoring.nets.weights import check_weights, fill, read_weights

SIDE = 299
FEATURES = 2048
Size = int | tuple[int, int]


class Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU; padded to keep the size, or strided without."""

    def __init__(self, inputs: int, outputs: int, size: Size = 1, stride: int = 1, pad: bool = True) -> None:
        super().__init__()
        high, wide = (size, size) if isinstance(size, int) else size
        padding = (high // 2, wide // 2) if pad and stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, (high, wide), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: [n, inputs, h, w] -> [n, outputs, h', w']."""
        return F.relu(self.bn(self.conv(x)))


class Block(nn.Module):
    """Branches of convolutions side by side, joined by channels."""

    def __init__(self, paths: Sequence[Sequence[str]], pool: str, convs: dict[str, Conv]) -> None:
        super().__init__()
        self._paths, self._pool = paths, pool
        for name, conv in convs.items():
            self.add_module(name, conv)

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: [n, inputs, h, w] -> [n, outputs, h', w']."""
        joined = []
        for path in self._paths:
            y = x
            for name in path:
                # a path may end in two convolutions of the same input
                y = torch.cat([self.get_submodule(part)(y) for part in name.split("+")], 1)
            joined.append(y)
        return torch.cat([*joined, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self._pool == "reduce":
            return F.max_pool2d(x, 3, stride=2)
        if self._pool == "max":
            x = F.max_pool2d(x, 3, stride=1, padding=1)
        else:
            x = F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
        pooled: Tensor = self.get_submodule("branch_pool")(x)
        return pooled


def _a(inputs: int, pooled: int) -> Block:
    return Block(
        (
            ("branch1x1",),
            ("branch5x5_1", "branch5x5_2"),
            ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"),
        ),
        "mean",
        {
            "branch1x1": Conv(inputs, 64),
            "branch5x5_1": Conv(inputs, 48),
            "branch5x5_2": Conv(48, 64, 5),
            "branch3x3dbl_1": Conv(inputs, 64),
            "branch3x3dbl_2": Conv(64, 96, 3),
            "branch3x3dbl_3": Conv(96, 96, 3),
            "branch_pool": Conv(inputs, pooled),
        },
    )


def _b(inputs: int) -> Block:
    return Block(
        (("branch3x3",), ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3")),
        "reduce",
        {
            "branch3x3": Conv(inputs, 384, 3, stride=2),
            "branch3x3dbl_1": Conv(inputs, 64),
            "branch3x3dbl_2": Conv(64, 96, 3),
            "branch3x3dbl_3": Conv(96, 96, 3, stride=2),
        },
    )


def _c(inputs: int, width: int) -> Block:
    twice = tuple(f"branch7x7dbl_{i}" for i in range(1, 6))
    return Block(
        (("branch1x1",), ("branch7x7_1", "branch7x7_2", "branch7x7_3"), twice),
        "mean",
        {
            "branch1x1": Conv(inputs, 192),
            "branch7x7_1": Conv(inputs, width),
            "branch7x7_2": Conv(width, width, (1, 7)),
            "branch7x7_3": Conv(width, 192, (7, 1)),
            "branch7x7dbl_1": Conv(inputs, width),
            "branch7x7dbl_2": Conv(width, width, (7, 1)),
            "branch7x7dbl_3": Conv(width, width, (1, 7)),
            "branch7x7dbl_4": Conv(width, width, (7, 1)),
            "branch7x7dbl_5": Conv(width, 192, (1, 7)),
            "branch_pool": Conv(inputs, 192),
        },
    )


def _d(inputs: int) -> Block:
    return Block(
        (("branch3x3_1", "branch3x3_2"), tuple(f"branch7x7x3_{i}" for i in range(1, 5))),
        "reduce",
        {
            "branch3x3_1": Conv(inputs, 192),
            "branch3x3_2": Conv(192, 320, 3, stride=2),
            "branch7x7x3_1": Conv(inputs, 192),
            "branch7x7x3_2": Conv(192, 192, (1, 7)),
            "branch7x7x3_3": Conv(192, 192, (7, 1)),
            "branch7x7x3_4": Conv(192, 192, 3, stride=2),
        },
    )


def _e(inputs: int, pool: str) -> Block:
    return Block(
        (
            ("branch1x1",),
            ("branch3x3_1", "branch3x3_2a+branch3x3_2b"),
            ("branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3a+branch3x3dbl_3b"),
        ),
        pool,
        {
            "branch1x1": Conv(inputs, 320),
            "branch3x3_1": Conv(inputs, 384),
            "branch3x3_2a": Conv(384, 384, (1, 3)),
            "branch3x3_2b": Conv(384, 384, (3, 1)),
            "branch3x3dbl_1": Conv(inputs, 448),
            "branch3x3dbl_2": Conv(448, 384, 3),
            "branch3x3dbl_3a": Conv(384, 384, (1, 3)),
            "branch3x3dbl_3b": Conv(384, 384, (3, 1)),
            "branch_pool": Conv(inputs, 192),
        },
    )


class Inception(nn.Module):
    """Inception-v3 up to its pooled features.

    Source: arXiv:1512.00567 (architecture), arXiv:1706.08500 (use for FID).
    """

    heads = None
    side = SIDE

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, pad=False)
        self.Mixed_5b = _a(192, 32)
        self.Mixed_5c = _a(256, 64)
        self.Mixed_5d = _a(288, 64)
        self.Mixed_6a = _b(288)
        self.Mixed_6b = _c(768, 128)
        self.Mixed_6c = _c(768, 160)
        self.Mixed_6d = _c(768, 160)
        self.Mixed_6e = _c(768, 192)
        self.Mixed_7a = _d(768)
        self.Mixed_7b = _e(1280, "mean")
        self.Mixed_7c = _e(2048, "max")

    @classmethod
    def load(cls, path: str, sha256: str | None, key: str = "metrics.fid") -> Inception:
        """Load the published weights; the classifier's layer is left out.

        Raises:
            ConfigError: the file is missing, has another checksum, or holds another network.
        """
        check_weights(path, sha256, key)
        module = cls()
        fill(module, read_weights(path, key), path, key)
        return module

    def see(self, images: Tensor) -> Seen:
        """Return the 2048 pooled features. Shapes: images [n, 1 or 3, h, w] in [0, 1]."""
        # published FIDs are of 8-bit pictures
        x = tf1_resize((colour(images) * 255).round(), SIDE)
        x = (x - 128) / 128
        for name, module in self.named_children():
            x = module(x)
            if name in ("Conv2d_2b_3x3", "Conv2d_4a_3x3"):
                x = F.max_pool2d(x, 3, stride=2)
        return Seen(features=x.mean((2, 3)))


def tf1_resize(images: Tensor, side: int) -> Tensor:
    """Resize to a square as TensorFlow 1's `resize_bilinear` did. Shapes: [n, c, h, w] -> [n, c, side, side].

    Corners are not aligned, pixel i is at i * from / to, and nothing is smoothed before.
    """
    for axis in (2, 3):
        size = images.shape[axis]
        if size == side:
            continue
        at = torch.arange(side, device=images.device, dtype=torch.float64) * (size / side)
        low = at.floor().long()
        share = (at - low).to(images.dtype).view(-1, 1) if axis == 2 else (at - low).to(images.dtype)
        below = images.index_select(axis, low)
        above = images.index_select(axis, (low + 1).clamp_max(size - 1))
        images = below + (above - below) * share
    return images
