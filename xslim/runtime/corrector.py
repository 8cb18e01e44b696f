"""Correctors: take the expected error off a predicted residual."""

from __future__ import annotations

import torch
from torch import Tensor

from xslim.errors import ConfigError
from xslim.policy.prediction import Affine, Corrector
from xslim.runtime.compensation import Compensation, load_compensation
from xslim.runtime.feature_cache import wide


def correct(
    corrector: Corrector | None,
    predicted: Tensor,
    step: int,
    dtype: torch.dtype | None = None,
    network: Compensation | None = None,
) -> Tensor:
    """Return the corrected residual; the input is left as it is.

    Args:
        corrector: the policy's, with one entry for every step of the request; None for none.
        predicted: [batch, tokens, dim].
        step: index of the denoising step.
        dtype: that a learned corrector computes in; None for the prediction's.
        network: of a learned corrector; None loads it.

    Raises:
        ConfigError: the corrector is for another number of channels, or its weights cannot be loaded.
    """
    network = load_compensation(corrector) if network is None else network
    if network is not None:
        return network(predicted, predicted.dtype if dtype is None else dtype)
    if not isinstance(corrector, Affine):
        return predicted
    dim = predicted.shape[-1]
    if corrector.channels not in (None, dim):
        raise ConfigError(
            f"lists of {corrector.channels} numbers; the model has {dim} channels, fit the corrector on it",
            key="corrector.slope",
        )
    slope = _on_device(corrector.slope[step], predicted.device)
    offset = _on_device(corrector.offset[step], predicted.device)
    x = predicted.to(wide(predicted.dtype))
    return x - (x * slope + offset)


def _on_device(entry: float | tuple[float, ...], device: torch.device) -> float | Tensor:
    """A number as it is, a list as a tensor [dim]; copied without waiting for the device."""
    if isinstance(entry, float):
        return entry
    host = torch.tensor(entry)
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)
