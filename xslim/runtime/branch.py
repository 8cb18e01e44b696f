"""What one guidance branch of one request remembers between its steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from xslim.policy.controller import FRESH, ControllerState
from xslim.policy.policy import Policy
from xslim.runtime.feature_cache import BlockResiduals, KeysValues, ResidualHistory
from xslim.runtime.health import Health
from xslim.runtime.indicators import INDICATORS, Indicator
from xslim.runtime.tokens import TokenRecord


class TextShape(NamedTuple):
    """What the text embedder returned, without its values."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device

    def placeholder(self) -> Tensor:
        """A tensor of this shape that takes no memory, for where nobody reads it."""
        return torch.zeros((), dtype=self.dtype, device=self.device).expand(self.shape)


class BranchState:
    """Controller states, signals and kept features of one branch; one row a sample."""

    def __init__(self, policy: Policy, rows: int, history: int) -> None:
        self.controllers: list[ControllerState] = [FRESH] * rows
        self.history = ResidualHistory(history)
        self.residuals = BlockResiduals()
        self.compute_flags: list[tuple[bool, ...] | None] = [None] * rows
        self.keys_values = KeysValues()
        self.tokens = TokenRecord()
        self.health = Health()
        self.step: int | None = None  # that it was last called at
        self.text: TextShape | None = None
        self.last_output: Tensor | None = None  # of the stack at the previous step, for parity
        self.indicators: dict[str, Indicator] = {
            name: INDICATORS[name]() for name in policy.signals if name in INDICATORS
        }

    @property
    def rows(self) -> int:
        """Samples in the branch."""
        return len(self.controllers)

    def tensors(self) -> list[Tensor]:
        """Every tensor held."""
        single = [] if self.last_output is None else [self.last_output]
        signals = [t for indicator in self.indicators.values() for t in indicator.tensors()]
        kept = (self.tokens, self.history, self.residuals, self.keys_values, self.health)
        return [*single, *signals, *(tensor for part in kept for tensor in part.tensors())]

    def forget_blocks(self) -> None:
        """Drop the block residuals and which blocks to replay: a full step that no block refresh follows."""
        self.residuals = BlockResiduals()
        self.compute_flags = [None] * self.rows

    def forget_tokens(self) -> None:
        """Drop keys, values and what is known of tokens: a full step that no token refresh follows."""
        self.keys_values = KeysValues()
        self.tokens = TokenRecord()
