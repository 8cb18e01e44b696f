"""Random weights for the networks of the metrics, and pictures to show them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

VGG = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def torchvision_features(net: str) -> nn.Sequential:
    """`features` of torchvision's AlexNet and VGG-16, written from their papers' tables."""
    if net == "alexnet":
        rows = [(3, 64, 11, 4, 2, True), (64, 192, 5, 1, 2, True), (192, 384, 3, 1, 1, False)]
        rows += [(384, 256, 3, 1, 1, False), (256, 256, 3, 1, 1, True)]
        layers: list[nn.Module] = []
        for inputs, outputs, size, stride, padding, pooled in rows:
            layers += [nn.Conv2d(inputs, outputs, size, stride, padding), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(3, 2)] if pooled else []
        return nn.Sequential(*layers)
    layers, width = [], 3
    for entry in VGG:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(width, entry, 3, padding=1), nn.ReLU(inplace=True)]
            width = entry
    return nn.Sequential(*layers)


def saved(module: nn.Module, path: Path, prefix: str = "") -> tuple[str, str]:
    """Write a module's weights; return path and checksum."""
    torch.save({f"{prefix}{name}": tensor for name, tensor in module.state_dict().items()}, path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


def spread(module: nn.Module) -> nn.Module:
    """Random weights that keep the scale of what passes, so that no map dies out."""
    generator = torch.Generator().manual_seed(1)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            layer.weight.data.normal_(0, (2 / fan) ** 0.5, generator=generator)
            if layer.bias is not None:
                layer.bias.data.normal_(0, 0.1, generator=generator)
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.bias.data.normal_(0, 0.2, generator=generator)
            layer.running_mean.normal_(0, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    return module.eval()


def pictures(*shape: int, seed: int = 2) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
