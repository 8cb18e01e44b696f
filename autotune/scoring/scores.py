"""Applying the metrics: paired values and features in a worker, set metrics in the driver."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autotune.scoring.metrics import METRICS, Inputs, Kind
from autotune.scoring.nets.digits import DigitsClassifier
from xslim.errors import ConfigError

PAIRED = tuple(name for name, metric in METRICS.items() if metric.kind is Kind.PAIRED)
SETS = tuple(name for name, metric in METRICS.items() if metric.kind is Kind.SET)


def load_net(folder: str) -> DigitsClassifier:
    """Load the metrics' network.

    Raises:
        ConfigError: the folder holds none.
    """
    path = Path(folder)
    if not (path / "model.safetensors").is_file():
        raise ConfigError(f"got {folder!r}, which holds no model.safetensors", key="metrics.net")
    return DigitsClassifier.load(path)


@torch.no_grad()
def paired_values(
    images: Tensor, reference: Tensor, net: DigitsClassifier
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Compare pictures with the uncached ones.

    Shapes: images, reference [n, c, h, w] in [0, 1] -> one [n] a paired metric; features [n, d].
    """
    drawn, uncached = net(images), net(reference)
    inputs = {Inputs.IMAGES: (images, reference), Inputs.MAPS: (drawn.maps, uncached.maps)}
    values = {}
    for name in PAIRED:
        metric = METRICS[name]
        result = metric.function(*inputs[metric.inputs])
        values[name] = torch.as_tensor(result).double().cpu().numpy()
    return values, drawn.features.double().cpu().numpy()


def set_values(features: NDArray[np.float64], reference: NDArray[np.float64]) -> dict[str, float]:
    """Form the set metrics. Shapes: features [n, d], reference [m, d]."""
    pair = (torch.tensor(features), torch.tensor(reference))  # copied: what Ray returns is read-only
    return {name: float(METRICS[name].function(*pair)) for name in SETS}
