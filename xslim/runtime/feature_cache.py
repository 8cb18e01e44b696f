"""Tensors kept between the steps of one branch; they know their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from xslim.runtime.attention import KeyValue
from xslim.runtime.calls import Streams
from xslim.runtime.rows import Rows


def held_bytes(tensors: Iterable[Tensor]) -> int:
    """Bytes of the distinct storages behind some tensors."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


Weigh = Callable[[tuple[float, ...], Callable[[int, int], Tensor]], Sequence[float | Tensor]]


def wide(dtype: torch.dtype) -> torch.dtype:
    """The type to compute in: fp32 for narrower ones."""
    return dtype if dtype.itemsize >= 4 else torch.float32


def narrow(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Bring x to a type; what is beyond the type's range is cut to it, NaN stays."""
    if x.dtype == dtype:
        return x
    limit = torch.finfo(dtype).max
    return x.clamp(-limit, limit).to(dtype)


def _weighted_sum(weights: Sequence[float | Tensor], slots: Sequence[Tensor]) -> Tensor:
    """Sum of weight times slot; weights are floats or one value a sample."""
    if len(weights) == 1 and isinstance(weights[0], float) and weights[0] == 1.0:
        return slots[0]
    columns = [w[:, None, None] if isinstance(w, Tensor) else w for w in weights]
    total = slots[0].to(wide(slots[0].dtype)) * columns[0]
    for slot, column in zip(slots[1:], columns[1:], strict=False):
        if isinstance(column, Tensor):
            total.add_(slot * column)
        else:
            total.add_(slot, alpha=column)
    return total


class ResidualHistory:
    """The last computed stack residuals of every sample, newest first.

    Samples compute at different steps, so the times are kept per sample.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._slots: list[Tensor] = []  # each [batch, tokens, dim]
        self.times: list[list[float]] = []  # per sample, newest first

    def push(self, residual: Tensor, time: float, rows: Rows) -> None:
        """Add the residual [rows, tokens, dim] that some samples computed at a step."""
        if not self.times:
            self.times = [[] for _ in range(rows.total)]
        if rows.all:
            self._slots = [residual, *self._slots][: self._capacity]
        else:
            self._shift(rows)
            rows.put(self._slots[0], residual)
        for row in rows.members:
            self.times[row] = [time, *self.times[row]][: self._capacity]

    def restart(self, rows: Rows) -> None:
        """Forget all but the newest residual of some samples, so that nothing older is read again."""
        for older in self._slots[1:]:
            rows.put(older, rows.take(self._slots[0]))
        for row in rows.members:
            del self.times[row][1:]

    def _shift(self, rows: Rows) -> None:
        if len(self._slots) < self._capacity:
            self._slots.append(self._slots[-1].clone())
        for older in range(len(self._slots) - 1, 0, -1):
            rows.put(self._slots[older], rows.take(self._slots[older - 1]))

    @property
    def newest(self) -> Tensor:
        """The last computed residual [batch, tokens, dim]."""
        return self._slots[0]

    def change(self) -> Tensor | None:
        """Mean |change| of the last two residuals per token [batch, tokens]; None before the second."""
        if len(self._slots) < 2:
            return None
        return (self._slots[0] - self._slots[1]).abs().mean(-1)

    def combine(self, weigh: Weigh) -> Tensor:
        """Weighted sum of the kept residuals, [batch, tokens, dim]; in fp32 where they are narrower.

        Samples that computed at different steps are combined apart, so that none depends on its mates.

        Args:
            weigh: maps the times of some samples, and the inner product of two kept residuals by position,
                [batch], to their weights: floats, or tensors [batch].
        """
        groups = self._weighted(weigh)
        if len(groups) == 1:
            return _weighted_sum(groups[0][1], self._slots)
        out = torch.empty_like(self.newest, dtype=wide(self.newest.dtype))
        for rows, weights in groups:
            kept = [rows.take(slot) for slot in self._slots[: len(weights)]]
            own = [rows.take(w) if isinstance(w, Tensor) else w for w in weights]
            rows.put(out, _weighted_sum(own, kept).to(out.dtype))
        return out

    def _weighted(self, weigh: Weigh) -> list[tuple[Rows, Sequence[float | Tensor]]]:
        """Samples of equal weights, and the weights."""
        products: dict[tuple[int, int], Tensor] = {}

        def dot(i: int, j: int) -> Tensor:
            if (i, j) not in products:
                product = self._slots[i].to(wide(self._slots[i].dtype)) * self._slots[j]
                products[i, j] = product.flatten(1).sum(1)
            return products[i, j]

        keys = [tuple(times) for times in self.times]
        found = {key: tuple(weigh(key, dot)) for key in dict.fromkeys(keys)}
        plain = {key: not any(isinstance(w, Tensor) for w in weights) for key, weights in found.items()}
        # step numbers alone may give samples of different times the same weights
        alike = [(plain[key], found[key] if plain[key] else key) for key in keys]
        return [
            (Rows.of([a == group for a in alike], self.newest.device), found[keys[alike.index(group)]])
            for group in dict.fromkeys(alike)
        ]

    def tensors(self) -> list[Tensor]:
        """Everything held."""
        return list(self._slots)


class BlockResiduals:
    """What single blocks added to image and text, for block refreshes, and the mean size of the image's."""

    def __init__(self) -> None:
        self._residuals: dict[int, Streams] = {}
        self._sizes: dict[int, Tensor] = {}  # block -> [batch]

    def record(self, block: int, residual: Streams, rows: Rows) -> None:
        """Keep what a block added to some samples."""
        size = residual.image.abs().mean(dim=tuple(range(1, residual.image.dim())))
        if rows.all:
            self._residuals[block], self._sizes[block] = residual, size
            return
        if block not in self._residuals:  # dropped, because no other sample replays it
            self._residuals[block] = residual.map(lambda part: _zeros(part, rows.total))
        if block not in self._sizes:
            self._sizes[block] = _zeros(size, rows.total)
        self._residuals[block].put(rows, residual)
        rows.put(self._sizes[block], size)

    def sizes(self, blocks: int, rows: int) -> list[list[float]]:
        """Mean |h_out - h_in|, one list over the blocks for every sample; synchronises once.

        Blocks that were not recorded, because they are always recomputed, stand with 0.
        """
        if not self._sizes:
            return [[0.0] * blocks] * rows
        zero = torch.zeros_like(next(iter(self._sizes.values())))
        stacked = torch.stack([self._sizes.get(block, zero) for block in range(blocks)])
        return [list(column) for column in zip(*stacked.float().tolist(), strict=True)]

    def keep_only(self, blocks: Iterable[int]) -> None:
        """Drop the residuals of blocks that no sample replays."""
        wanted = set(blocks)
        self._residuals = {block: r for block, r in self._residuals.items() if block in wanted}

    def __getitem__(self, block: int) -> Streams:
        return self._residuals[block]

    def tensors(self) -> list[Tensor]:
        """Everything held."""
        streams = [tensor for pair in self._residuals.values() for tensor in pair if tensor is not None]
        return [*streams, *self._sizes.values()]


class KeysValues:
    """Keys and values of every block over the whole sequence."""

    def __init__(self) -> None:
        self._blocks: dict[int, KeyValue] = {}

    def store(self, block: int, fresh: KeyValue, rows: Rows) -> None:
        """Keep the entries of some samples."""
        if rows.all or block not in self._blocks:
            if not rows.all:
                raise RuntimeError("keys and values are first kept for the whole batch")
            self._blocks[block] = fresh
        else:
            for old, new in zip(self._blocks[block], fresh, strict=True):
                rows.put(old, new)

    def take(self, block: int, rows: Rows) -> KeyValue:
        """Return the kept entries of some samples."""
        return tuple(rows.take(tensor) for tensor in self._blocks[block])

    def complete(self, blocks: int) -> bool:
        """Whether every block's entries are there."""
        return len(self._blocks) == blocks

    def tensors(self) -> list[Tensor]:
        """Everything held."""
        return [tensor for pair in self._blocks.values() for tensor in pair]


def _zeros(like: Tensor, rows: int) -> Tensor:
    return like.new_zeros((rows, *like.shape[1:]))
