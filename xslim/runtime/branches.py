"""Guidance branches that no pipeline names, told apart by their conditioning; never by call parity."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from torch import Tensor

from xslim.runtime.arrival import Arrival, same_content, storage_key

FIRST = "default"
MOST = 8  # branches of a request; more means that the conditioning itself changes from step to step


@dataclass(frozen=True, slots=True)
class _Held:
    """Tensors of a call. They are kept, so that no other tensor can take their place in memory."""

    tensors: tuple[Tensor, ...]
    key: tuple[tuple[object, ...], ...]

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> _Held:
        return cls(tensors, storage_key(tensors))

    def overwritten(self) -> bool:
        """Whether somebody wrote to them since, so that what they held is gone."""
        return storage_key(self.tensors) != self.key

    def equals(self, tensors: tuple[Tensor, ...]) -> bool:
        """Whether others are the same in memory, or hold the same numbers."""
        if storage_key(tensors) == self.key:
            return True
        return not self.overwritten() and same_content(self.tensors, tensors)


class Branches:
    """Names of the branches of one request: `default`, then `branch-2` and so on.

    A conditioning is known by its storage. Only when the storage is new are the contents compared,
    which waits for the device.

    Attributes:
        problem: why branches cannot be told apart any more, or None.
    """

    def __init__(self) -> None:
        self._conditioning: dict[str, _Held] = {}
        self._latent: dict[str, _Held] = {}
        self._count = 0
        self.problem: str | None = None

    def find(self, arrival: Arrival, busy: Collection[str]) -> str | None:
        """Name of the branch that a call belongs to; None for one that was not seen before.

        Args:
            arrival: the call.
            busy: branches called at the same timestep already.
        """
        if self._count and not self._conditioning:  # released: only overdue steps come now
            return None if busy else FIRST
        key = storage_key(arrival.conditioning)
        for name, held in self._conditioning.items():
            if held.key == key:
                return name
        equal = [name for name, held in self._conditioning.items() if held.equals(arrival.conditioning)]
        free = [name for name in equal if name not in busy]
        if free:
            return free[0]
        latent = storage_key(arrival.given)
        if equal and not any(self._latent[name].key == latent for name in equal):
            return equal[0]
        return None

    @property
    def next_name(self) -> str:
        """Name of the next new branch."""
        return FIRST if self._count == 0 else f"branch-{self._count + 1}"

    def shares_latent(self, arrival: Arrival) -> bool:
        """Whether some branch was last called with the same latent."""
        return any(held.equals(arrival.given) for held in self._latent.values())

    def note(self, name: str, arrival: Arrival) -> None:
        """Remember a call."""
        if any(held.overwritten() for held in self._conditioning.values()):
            self.problem = (
                "the conditioning is overwritten in place, so guidance branches cannot be told apart; "
                "give each branch a tensor of its own, or open a cache_context"
            )
        if name not in self._conditioning:
            self._count += 1
            if self._count > MOST:
                self.problem = f"the conditioning changes from step to step ({self._count} different ones)"
                self._forget(next(iter(self._conditioning)))
        self._conditioning[name] = _Held.of(arrival.conditioning)
        self._latent[name] = _Held.of(arrival.given)

    def _forget(self, name: str) -> None:
        del self._conditioning[name], self._latent[name]

    def release(self) -> None:
        """Let go of all tensors."""
        self._conditioning.clear()
        self._latent.clear()
