"""Signals that compare a feature with an earlier step's."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from xslim.policy.decision import Action
from xslim.runtime.indicators.base import Features, Measured, relative_change
from xslim.runtime.rows import Rows


class FeatureChange:
    """Relative change of one feature against the previous step, skipped or not, or the last full one.

    `modulated_input` reads the first block's modulated input (TeaCache, arXiv:2411.19108, against the
    previous step); `first_block` its residual (First-Block Cache, against the last full step);
    `timestep_embedding` the embedding that modulates the first block (which TeaCache reads on some models,
    and which no sample changes). A full step is one whose action is full: refreshes do not count, so that
    a block refresh that computes the first block alone leaves the reference where it was.
    """

    def __init__(self, feature: Callable[[Features], Tensor]) -> None:
        self._feature = feature
        self._reference: Tensor | None = None
        self._new: Tensor | None = None  # of this step, until it is known which samples are full

    def measure(self, features: Features) -> Measured | None:
        """Return mean |new - old| / mean |old|."""
        new, old = self._feature(features), self._reference
        if old is None or features.compare == "previous":
            self._reference = new
        else:
            self._new = new
        return None if old is None else Measured(relative_change(new, old), (True,) * len(new))

    def observe(self, output: Tensor, actions: tuple[Action, ...]) -> None:
        """Renew the reference of the samples whose step was full."""
        new, old, self._new = self._new, self._reference, None
        if new is None or old is None:
            return
        full = Rows.of([action is Action.FULL for action in actions], new.device)
        if full.all:
            self._reference = new
        elif len(full):
            self._reference = old.clone()  # the old one may be the model's own tensor
            full.put(self._reference, full.take(new))

    def tensors(self) -> list[Tensor]:
        """The reference, and within a step the new feature."""
        return [tensor for tensor in (self._reference, self._new) if tensor is not None]


def modulated_input() -> FeatureChange:
    """Change of the first block's modulated input."""
    return FeatureChange(lambda features: features.modulated())


def first_block() -> FeatureChange:
    """Change of the first block's residual."""
    return FeatureChange(lambda features: features.probe())


def timestep_embedding() -> FeatureChange:
    """Change of the embedding that modulates the first block."""
    return FeatureChange(lambda features: features.time_embedding())
