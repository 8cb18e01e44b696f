"""The learned corrector: a small network on each token of a predicted residual."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from xslim.errors import ConfigError
from xslim.policy.prediction import Corrector, Mlp
from xslim.runtime.feature_cache import narrow, wide

KEY = "corrector.weights"
EPS = 1e-6  # of the layer norm
NAMES = ("norm.weight", "norm.bias", "up.weight", "up.bias", "down.weight", "down.bias")


class Compensation:
    """g(x) = x + W2 GELU(W1 LN(x)), per token. Source: arXiv:2604.04018.

    Attributes:
        width: channels of the residual that it was fitted on.
        hidden: width of its hidden layer.

    Raises:
        ConfigError: the weights are not those of such a network.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        missing = [name for name in NAMES if name not in weights]
        if missing or len(weights) != len(NAMES):
            raise ConfigError(
                f"got the tensors {', '.join(sorted(weights))}; give {', '.join(NAMES)}", key=KEY
            )
        up = weights["up.weight"]
        self.hidden, self.width = up.shape if up.dim() == 2 else (0, 0)
        dim, hidden = self.width, self.hidden
        shapes: list[tuple[int, ...]] = [(dim,), (dim,), (hidden, dim), (hidden,), (dim, hidden), (dim,)]
        for name, shape in zip(NAMES, shapes, strict=True):
            if weights[name].shape != shape:
                raise ConfigError(f"{name} is {list(weights[name].shape)}, not {list(shape)}", key=KEY)
        self._weights = tuple(weights[name] for name in NAMES)

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the corrected residual, at least fp32.

        Args:
            x: predicted residual [batch, tokens, dim].
            dtype: that the network computes in.

        Raises:
            ConfigError: it was fitted on another number of channels.
        """
        if x.shape[-1] != self.width:
            raise ConfigError(
                f"made for {self.width} channels; the model has {x.shape[-1]}, fit the corrector on it",
                key=KEY,
            )
        norm, shift, up, up_bias, down, down_bias = self._at(x.device, dtype)
        hidden = F.linear(F.layer_norm(narrow(x, dtype), (self.width,), norm, shift, EPS), up, up_bias)
        return x.to(wide(x.dtype)) + F.linear(F.gelu(hidden), down, down_bias)

    def macs(self, tokens: int) -> float:
        """Multiply-accumulates on so many tokens."""
        return 2.0 * tokens * self.width * self.hidden

    def tensors(self) -> tuple[Tensor, ...]:
        """Everything held."""
        return self._weights

    def _at(self, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """The weights, moved once."""
        if self._weights[0].device != device or self._weights[0].dtype != dtype:
            self._weights = tuple(tensor.to(device, dtype) for tensor in self._weights)
        return self._weights


def load_compensation(corrector: Corrector | None) -> Compensation | None:
    """Load the network of a learned corrector; None for correctors of other kinds.

    Raises:
        ConfigError: the file is missing, not the one that is meant, or holds something else.
    """
    if not isinstance(corrector, Mlp):
        return None
    try:
        raw = Path(corrector.weights).read_bytes()
    except OSError as error:
        problem = f"cannot read {corrector.weights!r}: {str(error.strerror).lower()}; check the path"
        raise ConfigError(problem, key=KEY) from None
    found = sha256(raw).hexdigest()
    if found != corrector.sha256:
        raise ConfigError(
            f"got {corrector.sha256[:12]}…, but {corrector.weights!r} has {found[:12]}…; give the file that "
            "the policy was made with",
            key="corrector.sha256",
        )
    try:
        return Compensation(load(raw))
    except SafetensorError:
        raise ConfigError(f"{corrector.weights!r} is no safetensors file", key=KEY) from None
