"""What a network of the metrics gives for pictures."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from xslim.errors import ConfigError


class Seen(NamedTuple):
    """What one pass gives.

    Shapes: maps: one [n, c, h, w] per stage, for `lpips`; features [n, d], for set metrics.
    """

    maps: tuple[Tensor, ...] = ()
    features: Tensor | None = None


class PictureNet(Protocol):
    """A network whose maps or features are compared."""

    @property
    def heads(self) -> tuple[Tensor, ...] | None:
        """Learned weights of the maps' channels, one [c] per stage; None for uniform ones."""
        ...

    @property
    def side(self) -> int:
        """Pixels of a side that pictures are resized to; 0 if they are seen at their own size."""
        ...

    def see(self, images: Tensor) -> Seen:
        """Run the network. Shapes: images [n, 1 or 3, h, w] in [0, 1]."""
        ...


def colour(images: Tensor) -> Tensor:
    """Return pictures with three channels; grey is repeated.

    Raises:
        ConfigError: another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ConfigError(f"got {images.shape[1]} channels, the network takes 1 or 3", key="images")
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def normalised(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Return (images - mean) / std, by channel."""
    shift, scale = (torch.tensor(v, device=images.device).view(1, -1, 1, 1) for v in (mean, std))
    return (images - shift) / scale
