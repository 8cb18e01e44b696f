"""Rows: a set of samples of a batch, with the cases "all" and "none" free of indexing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rows:
    """Some samples of a batch.

    Attributes:
        members: their positions, ascending.
        total: size of the batch.
        index: the positions as a tensor on the features' device; None for all and for none.
    """

    members: tuple[int, ...]
    total: int
    index: Tensor | None = None

    @classmethod
    def of(cls, flags: Sequence[bool], device: torch.device) -> Rows:
        """Build from one flag a sample."""
        members = tuple(i for i, flag in enumerate(flags) if flag)
        if not 0 < len(members) < len(flags):
            return cls(members, len(flags))
        index = torch.tensor(members)
        if device.type == "cuda":  # from pinned memory the host need not wait
            index = index.pin_memory()
        return cls(members, len(flags), index.to(device, non_blocking=True))

    def __len__(self) -> int:
        return len(self.members)

    @property
    def all(self) -> bool:
        """Whether every sample is in the set."""
        return len(self.members) == self.total

    def take(self, x: Tensor) -> Tensor:
        """Return the rows of x; x itself when all are in the set."""
        return x if self.index is None else x.index_select(0, self.index)

    def put(self, x: Tensor, values: Tensor) -> None:
        """Write values to the rows of x, in place."""
        if self.index is None:
            x.copy_(values)
        else:
            x.index_copy_(0, self.index, values)
