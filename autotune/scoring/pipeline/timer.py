"""The time of the denoising loop, from the first transformer call to the last one."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class LoopTimer:
    """Seconds from the first transformer call's start to the last one's end.

    On a GPU the two ends are CUDA events on the current stream, so that nothing waits within the loop and
    the VAE's work behind it is not counted.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._first: Any = None  # seconds, or a CUDA event
        self._last: Any = None

    def before(self, *_: object) -> None:
        """At every call's start."""
        if self._first is None:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)  # work from before the loop is not its own
            self._first = self._now()

    def after(self, *_: object) -> None:
        """At every call's end."""
        self._last = self._now()

    def take(self) -> float:
        """Return the loop's seconds and start afresh."""
        first, self._first = self._first, None
        if first is None:
            raise RuntimeError("the transformer was not called")
        if self._device.type != "cuda":
            return float(self._last - first)
        self._last.synchronize()
        return float(first.elapsed_time(self._last)) / 1000

    def _now(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        with torch.cuda.device(self._device):
            event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            event.record()
        return event


@contextmanager
def timed(transformers: Iterable[nn.Module], device: torch.device) -> Iterator[LoopTimer]:
    """Time the denoising loop of the calls inside; a pipeline may have several transformers."""
    timer = LoopTimer(device)
    handles: list[Any] = []
    for transformer in transformers:
        handles.append(transformer.register_forward_pre_hook(timer.before))
        handles.append(transformer.register_forward_hook(timer.after))
    try:
        yield timer
    finally:
        for handle in handles:
            handle.remove()
