"""Counting what a cache computes and holds, with no help from its library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from xslim.runtime.macs import FLOPS_PER_MAC, FORMULAS

COMPUTED = 0.5  # share of a step's MACs from which it counts as computed


@dataclass
class Counts:
    """What the transformers of one drawing did.

    Attributes:
        calls: MACs of each call, in order.
        held_bytes: most bytes held after a call.
    """

    calls: list[float] = field(default_factory=list)
    held_bytes: int = 0


@contextmanager
def counted(transformers: Iterable[nn.Module], held: Iterable[object] = ()) -> Iterator[Counts]:
    """Count the MACs of every call of the transformers inside, with PyTorch's counter.

    Args:
        transformers: of the pipeline.
        held: objects of the cache, looked through for tensors after every call.
    """
    counts, started = Counts(), [0]
    handles: list[Any] = []
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:

        def before(*_: object) -> None:
            started[0] = counter.get_total_flops()

        def after(*_: object) -> None:
            counts.calls.append((counter.get_total_flops() - started[0]) / FLOPS_PER_MAC)
            counts.held_bytes = max(counts.held_bytes, tensor_bytes(held))

        for transformer in transformers:
            handles.append(transformer.register_forward_pre_hook(before))
            handles.append(transformer.register_forward_hook(after))
        try:
            yield counts
        finally:
            for handle in handles:
                handle.remove()


def letters(calls: list[float], uncached: list[float], num_steps: int) -> str:
    """One letter a step: `F` where at least half of the uncached MACs ran, else `.`.

    Empty where the calls cannot be told by steps.
    """
    if len(calls) != len(uncached) or len(calls) % num_steps:
        return ""
    size = len(calls) // num_steps
    return "".join(
        "F" if sum(calls[at : at + size]) >= COMPUTED * sum(uncached[at : at + size]) else "."
        for at in range(0, len(calls), size)
    )


def tensor_bytes(roots: Iterable[object]) -> int:
    """Bytes of the tensors that objects hold, each storage once; modules and their weights are left out."""
    seen: set[int] = set()
    storages: dict[int, int] = {}
    left = list(roots)
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, nn.Module | type):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            if not isinstance(value, nn.Parameter) and value.device != torch.device("meta"):
                storage = value.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value
        elif type(value).__module__ != "builtins":
            left += getattr(value, "__dict__", {}).values()
    return sum(storages.values())
