"""Which samples do what at one step, and in which blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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
        self._known: dict[tuple[bool, ...], Rows] = {}
        self.full = self._rows(Action.FULL)
        self.token = self._rows(Action.TOKEN)
        self.block = self._rows(Action.BLOCK)
        self.skip = self._rows(Action.SKIP)
        self.computed = self._rows(Action.FULL, Action.BLOCK, Action.TOKEN)
        self.whole = self._rows(Action.FULL, Action.BLOCK)
        self._none = Rows((), len(decisions))

    def _rows(self, *actions: Action) -> Rows:
        return self._of(decision.action in actions for decision in self._decisions)

    def _of(self, flags: Iterable[bool]) -> Rows:
        """Build a set once; blocks ask for the same few again and again."""
        key = tuple(flags)
        if key not in self._known:
            self._known[key] = Rows.of(key, self._device)
        return self._known[key]

    def one(self, row: int) -> Rows:
        """A single sample."""
        return self._of(other == row for other in range(len(self._decisions)))

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
        return self._of(compute), self._of(replay), self.token
