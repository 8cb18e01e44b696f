"""The networks of the metrics, loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from autotune.scoring.metrics.judged import Judge
from autotune.scoring.nets.seen import PictureNet
from autotune.scoring.nets.spec import DIGITS, SHARED, MetricsSpec, NetSpec


@dataclass(frozen=True, slots=True)
class MetricNets:
    """Networks on one device.

    Attributes:
        lpips: gives maps for `lpips`.
        features: set metric -> network that gives its features.
        judges: metric -> network that judges a picture by its prompt.
        device: where they compute.
    """

    lpips: PictureNet | None = None
    features: Mapping[str, PictureNet] = field(default_factory=dict)
    judges: Mapping[str, Judge] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


def load_nets(spec: MetricsSpec, device: torch.device | str = "cpu") -> MetricNets:
    """Load networks; one that serves several metrics is loaded once.

    Raises:
        ConfigError: a package, file or folder is missing or at fault.
    """
    device = torch.device(device)
    known: dict[NetSpec, object] = {}
    for role, net in spec.roles():
        if net not in known:
            known[net] = _load(net, role, device)
    features: dict[str, PictureNet] = {}
    for role in ("fid", "cmmd"):
        net = getattr(spec, role)
        if net is not None:
            features |= dict.fromkeys(SHARED.get(role, (role,)), cast("PictureNet", known[net]))
    return MetricNets(
        lpips=None if spec.lpips is None else cast("PictureNet", known[spec.lpips]),
        features=features,
        judges={
            role: cast("Judge", known[net])
            for role, net in spec.roles()
            if role in ("clip_score", "image_reward")
        },
        device=device,
    )


def _load(net: NetSpec, role: str, device: torch.device) -> object:
    """Load one network; each kind is imported where it is needed."""
    if net.net == "image_reward":
        from autotune.scoring.nets.image_reward import ImageRewardNet

        return ImageRewardNet.load(net.path, device)
    return _module(net, role).to(device)


def _module(net: NetSpec, role: str) -> nn.Module:
    key = f"metrics.{role}"
    if net.net == DIGITS:
        from autotune.scoring.nets.digits import DigitsClassifier

        net.check(role)
        return DigitsClassifier.load(Path(net.path))
    if net.net == "clip":
        from autotune.scoring.nets.clip import ClipNet

        return ClipNet.load(net.path, role)
    if net.net == "inception":
        from autotune.scoring.nets.inception import Inception

        return Inception.load(net.path, net.sha256, key)
    from autotune.scoring.nets.lpips import LpipsNet

    return LpipsNet.load(cast("Literal['alex', 'vgg']", net.net), net.path, net.sha256, key)
