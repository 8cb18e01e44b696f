"""The networks of LPIPS: AlexNet and VGG-16 up to their last convolution, with the published heads."""

from __future__ import annotations

from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from autotune.scoring.nets.seen import Seen, colour, normalised
from autotune.scoring.nets.weights import check_weights, fill, read_weights
from xslim.errors import ConfigError

Backbone = Literal["alex", "vgg"]
# the authors' scaling layer, for pictures in [-1, 1]
MEAN = (-0.030, -0.088, -0.188)
STD = (0.458, 0.448, 0.450)
TAPS = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}  # layers whose outputs are compared
MIN_SIDE = {"alex": 31, "vgg": 16}  # below, a map has no pixel
# version 0.1 of the published heads, as torchmetrics ships them
HEADS_SHA256 = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}


def _alex() -> list[nn.Module]:
    return [
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    ]


def _vgg() -> list[nn.Module]:
    layers: list[nn.Module] = []
    width = 3
    for stage, (count, channels) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        if stage:
            layers.append(nn.MaxPool2d(2, stride=2))
        for _ in range(count):
            layers += [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
            width = channels
    return layers


class LpipsNet(nn.Module):
    """A backbone with torchvision's key names (`features.N.weight`), and the heads of LPIPS 0.1.

    Source: arXiv:1801.03924; AlexNet arXiv:1404.5997, VGG arXiv:1409.1556.
    """

    side = 0

    def __init__(self, net: Backbone) -> None:
        super().__init__()
        self.net = net
        self.features = nn.Sequential(*(_alex() if net == "alex" else _vgg()))
        for stage, head in enumerate(read_heads(net)):
            self.register_buffer(f"head{stage}", head, persistent=False)

    @classmethod
    def load(cls, net: Backbone, path: str, sha256: str | None, key: str = "metrics.lpips") -> LpipsNet:
        """Load the backbone from torchvision's file of the whole classifier, or of its `features` alone.

        Raises:
            ConfigError: the file is missing, has another checksum, or holds another network.
        """
        check_weights(path, sha256, key)
        module = cls(net)
        fill(module, read_weights(path, key), path, key)
        return module

    @property
    def heads(self) -> tuple[Tensor, ...]:
        """Weights of the channels, one [c] per stage, not negative."""
        return tuple(self.get_buffer(f"head{stage}") for stage in range(len(TAPS[self.net])))

    def see(self, images: Tensor) -> Seen:
        """Return the maps after the ReLU of each stage.

        Shapes: images [n, 1 or 3, h, w] in [0, 1].

        Raises:
            ConfigError: too small, or another number of channels.
        """
        if min(images.shape[-2:]) < MIN_SIDE[self.net]:
            raise ConfigError(
                f"got pictures of {images.shape[-2]}x{images.shape[-1]}, lpips_{self.net} needs sides of at "
                f"least {MIN_SIDE[self.net]}",
                key="metrics.lpips",
            )
        x = normalised(2 * colour(images) - 1, MEAN, STD)
        maps = []
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number in TAPS[self.net]:
                maps.append(x)
        return Seen(maps=tuple(maps))


def read_heads(net: Backbone) -> list[Tensor]:
    """Read the published heads from torchmetrics' files: one [c] per stage.

    Raises:
        ConfigError: torchmetrics is not installed, or its file is not the one known.
    """
    found = find_spec("torchmetrics")
    if found is None or found.origin is None:
        raise ConfigError(
            "the heads of LPIPS come with torchmetrics: pip install torchmetrics", key="metrics.lpips"
        )
    path = Path(found.origin).parent / "functional" / "image" / "lpips_models" / f"{net}.pth"
    if not path.is_file() or sha256(path.read_bytes()).hexdigest() != HEADS_SHA256[net]:
        raise ConfigError(
            f"{path} is not version 0.1 of the heads; install torchmetrics 1.9", key="metrics.lpips"
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return [state[f"lin{stage}.model.1.weight"].flatten() for stage in range(len(TAPS[net]))]
