"""The time of the denoising loop, from the first transformer call to the last one, and of every call."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from autotune.scoring.clock import Clock, clock_of


class LoopTimer:
    """Seconds from the first transformer call's start to the last one's end.

    Nothing waits within the loop, and the VAE's work behind it is not counted.

    Attributes:
        calls: of the last loop, the seconds from each call's start to the next one's; the last call's to its
            own end. They add up to the loop's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._starts: list[Any] = []
        self._end: Any = None
        self.calls: tuple[float, ...] = ()

    def before(self, *_: object) -> None:
        """At every call's start."""
        if not self._starts:
            self._clock.wait()  # work from before the loop is not its own
        self._starts.append(self._clock.mark())

    def after(self, *_: object) -> None:
        """At every call's end."""
        self._end = self._clock.mark()

    def take(self) -> float:
        """Return the loop's seconds and start afresh."""
        if not self._starts:
            raise RuntimeError("the transformer was not called")
        marks, self._starts = [*self._starts, self._end], []
        self.calls = tuple(self._clock.seconds(a, b) for a, b in itertools.pairwise(marks))
        return self._clock.seconds(marks[0], marks[-1])


@contextmanager
def timed(transformers: Iterable[nn.Module], device: torch.device) -> Iterator[LoopTimer]:
    """Time the denoising loop of the calls inside; a pipeline may have several transformers."""
    timer = LoopTimer(clock_of(device))
    handles: list[Any] = []
    for transformer in transformers:
        handles.append(transformer.register_forward_pre_hook(timer.before))
        handles.append(transformer.register_forward_hook(timer.after))
    try:
        yield timer
    finally:
        for handle in handles:
            handle.remove()
