"""What an indicator reads, and the protocol it keeps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from xslim.policy.decision import Action
from xslim.policy.policy import Compare


@dataclass(frozen=True, slots=True)
class Features:
    """Tensors an indicator may read before a step is decided. The callables compute on demand.

    Attributes:
        latent: input of the transformer, [batch, ...].
        modulated: input of the first block after its modulation, [batch, tokens, dim].
        probe: residual of the first block, [batch, tokens, dim].
        time_embedding: what modulates the first block, [batch, ...].
        residuals: the last computed residuals of the stack, newest first, each [batch, tokens, dim].
        known: how many of the residuals each sample has computed.
        compare: what the change of a feature is measured against: the step before, or the last full one.
    """

    latent: Tensor
    modulated: Callable[[], Tensor]
    probe: Callable[[], Tensor]
    time_embedding: Callable[[], Tensor]
    residuals: Sequence[Tensor]
    known: Sequence[int]
    compare: Compare = "previous"


@dataclass(frozen=True, slots=True)
class Measured:
    """Raw values of one signal at one step.

    Attributes:
        values: [batch].
        defined: one flag a sample; a signal may need some steps before it has a value.
    """

    values: Tensor
    defined: tuple[bool, ...]


class Indicator(Protocol):
    """A step-level signal of one branch; remembers what it compares with."""

    def measure(self, features: Features) -> Measured | None:
        """Return the signal at this step, or None when it has no value for any sample."""
        ...

    def observe(self, output: Tensor, actions: tuple[Action, ...]) -> None:
        """Note the transformer's output [batch, ...] and what each sample did."""
        ...

    def tensors(self) -> list[Tensor]:
        """Everything held."""
        ...


def relative_change(new: Tensor, old: Tensor) -> Tensor:
    """Mean |new - old| / mean |old| per sample. Shapes: [batch, ...] -> [batch]."""
    return mean_abs(new - old) / mean_abs(old).clamp_min(1e-12)


def mean_abs(x: Tensor) -> Tensor:
    """Mean absolute value per sample, summed in fp32. Shapes: [batch, ...] -> [batch]."""
    return x.abs().flatten(1).mean(1, dtype=torch.float32)
