"""One call of the transformer as it arrives: what it shows of the request that it belongs to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from xslim.runtime.adapters import BlockAdapter
from xslim.runtime.calls import Call, stacked

FLOAT32 = torch.finfo(torch.float32).eps


@dataclass(frozen=True, slots=True)
class Shape:
    """What must not change within a branch of a request."""

    size: tuple[int, ...]
    dtype: str
    device: str

    @classmethod
    def of(cls, latent: Tensor) -> Shape:
        """Read it off the latent."""
        return cls(tuple(latent.shape), str(latent.dtype), str(latent.device))

    def fits(self, other: Shape) -> bool:
        """Whether both may belong to branches of one request: all but the batch is the same."""
        return (self.size[1:], self.dtype, self.device) == (other.size[1:], other.dtype, other.device)


@dataclass(frozen=True, slots=True)
class Time:
    """The scheduler's timestep of a call.

    Attributes:
        value: as the transformer was told it; in 16 bit it may be off by several steps' distance.
        tolerance: how far off it may be.
    """

    value: float
    tolerance: float

    def near(self, timestep: float) -> bool:
        """Whether it may be this timestep of the scheduler."""
        return abs(self.value - timestep) <= self.tolerance


@dataclass(frozen=True)
class Arrival:
    """One call.

    Attributes:
        latent: the latent as one tensor [batch, ...].
        given: the latent's tensors as they were passed.
        context: name under which the pipeline runs it, or None.
        conditioning: the tensors that tell guidance branches apart.
        thread: the thread that calls.
        read_time: reads its timestep.
    """

    latent: Tensor
    given: tuple[Tensor, ...]
    context: str | None
    conditioning: tuple[Tensor, ...]
    thread: int
    read_time: Callable[[], Time]

    @classmethod
    def of(cls, call: Call, adapter: BlockAdapter, context: str | None) -> Arrival:
        """Read it off a call of the transformer."""
        latent = call.get(adapter.latent)
        return cls(
            latent=stacked(latent),
            given=_tensors(latent),
            context=context,
            conditioning=_tensors(call.get(adapter.conditioning)),
            thread=threading.get_ident(),
            read_time=lambda: _time(call, adapter),
        )

    @cached_property
    def time(self) -> Time:
        """Its timestep; the first reading waits for the device."""
        return self.read_time()

    @property
    def time_was_read(self) -> bool:
        """Whether the host knows the timestep already."""
        return "time" in self.__dict__

    def cost_key(self, args: Any, kwargs: Any) -> tuple[object, ...]:
        """What calls of equal cost have in common; prompts of nearly the same length count as equal."""
        text = {tensor.shape[-2] for tensor in self.conditioning if tensor.dim() > 1}
        shapes = (leaf.shape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
        rounded = (tuple(_rounded(n) if n in text else n for n in shape) for shape in shapes)
        return (self.shape, *rounded)

    @property
    def shape(self) -> Shape:
        """Shape, dtype and device of the latent."""
        return Shape.of(self.latent)


def _rounded(length: int) -> int:
    """Round up to one of eight lengths per doubling."""
    step = 1 << max(0, length.bit_length() - 4)
    return -(-length // step) * step


def _tensors(value: Any) -> tuple[Tensor, ...]:
    return tuple(leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))


def _time(call: Call, adapter: BlockAdapter) -> Time:
    """The timestep; pipelines round it to the model's dtype up to twice, before and after scaling."""
    value = adapter.timestep.read(call)
    dtype = call.tensor(adapter.timestep.argument).dtype
    if not dtype.is_floating_point:
        return Time(value, 0.99)  # whole numbers may have been cut off, and are no closer than 1
    rounding = 1.05 * torch.finfo(dtype).eps + 2 * FLOAT32
    return Time(value, rounding * max(abs(value), abs(value - adapter.timestep.offset)))


def storage_key(tensors: Iterable[Tensor]) -> tuple[tuple[object, ...], ...]:
    """What tells apart tensors in memory, as long as they live: address, version and shape."""
    return tuple(
        (t.data_ptr(), 0 if t.is_inference() else t._version, t.dtype, tuple(t.shape), t.stride())
        for t in tensors
    )


def same_content(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    """Whether tensors hold the same numbers; waits for the device."""
    return len(first) == len(second) and all(
        a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
        for a, b in zip(first, second, strict=True)
    )
