"""Which samples do what at one step, and in which blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from xslim.policy.decision import Action, Decision
from xslim.runtime.rows import Rows


class Plan:
    """The decisions of one step as sets of samples.

    Args:
        decisions: one a sample.
        flags: per sample, the blocks that a refresh recomputes, as selected at its last full step.
        device: where the features are.
    """

    def __init__(
        self,
        decisions: Sequence[Decision],
        flags: Sequence[tuple[bool, ...] | None],
        device: torch.device,
    ) -> None:
        self._decisions = decisions
        self._flags = flags
        self._device = device
        self.full = self._rows(Action.FULL)
        self.token = self._rows(Action.TOKEN)
        self.block = self._rows(Action.BLOCK)
        self.skip = self._rows(Action.SKIP)
        self.computed = self._rows(Action.FULL, Action.BLOCK, Action.TOKEN)
        self.whole = self._rows(Action.FULL, Action.BLOCK)
        self._none = Rows((), len(decisions))

    def _rows(self, *actions: Action) -> Rows:
        return Rows.of([decision.action in actions for decision in self._decisions], self._device)

    def in_block(self, block: int) -> tuple[Rows, Rows, Rows]:
        """Which samples compute a block, replay it, or refresh tokens in it."""
        if not len(self.block):
            return self.full, self._none, self.token
        compute, replay = [], []
        for decision, kept in zip(self._decisions, self._flags, strict=True):
            flags = decision.compute_blocks or kept or ()
            refresh = decision.action is Action.BLOCK
            compute.append(decision.action is Action.FULL or (refresh and flags[block]))
            replay.append(refresh and not flags[block])
        return Rows.of(compute, self._device), Rows.of(replay, self._device), self.token
