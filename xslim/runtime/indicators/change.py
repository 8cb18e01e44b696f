"""Signals that compare a feature with the previous step's."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from xslim.runtime.indicators.base import Features, Measured, relative_change


class FeatureChange:
    """Relative change of one feature against the previous step, skipped or not.

    `modulated_input` reads the first block's modulated input (TeaCache, arXiv:2411.19108);
    `first_block` its residual (First-Block Cache compares with the last computed step; as a term of a
    sum over steps the change per step is what adds up); `timestep_embedding` the embedding that
    modulates the first block (which TeaCache reads on some models, and which no sample changes).
    """

    def __init__(self, feature: Callable[[Features], Tensor]) -> None:
        self._feature = feature
        self._previous: Tensor | None = None

    def measure(self, features: Features) -> Measured | None:
        """Return mean |new - old| / mean |old|."""
        new, old = self._feature(features), self._previous
        self._previous = new
        return None if old is None else Measured(relative_change(new, old), (True,) * len(new))

    def observe(self, output: Tensor, computed: tuple[bool, ...]) -> None:
        """Nothing to note."""

    def tensors(self) -> list[Tensor]:
        """The previous feature."""
        return [] if self._previous is None else [self._previous]


def modulated_input() -> FeatureChange:
    """Change of the first block's modulated input."""
    return FeatureChange(lambda features: features.modulated())


def first_block() -> FeatureChange:
    """Change of the first block's residual."""
    return FeatureChange(lambda features: features.probe())


def timestep_embedding() -> FeatureChange:
    """Change of the embedding that modulates the first block."""
    return FeatureChange(lambda features: features.time_embedding())
