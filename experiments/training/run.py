"""What all training runs share: a step of descent, the average of the weights, their log and checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.training.checkpoint import Stateful, load, save

CHECKPOINT_SECONDS = 300


class Run:
    """The steps of a training run, which goes on where an earlier one stopped.

    Args:
        path: of the checkpoint.
        parts: what a checkpoint holds.
        steps: in all.
        log: where the pace is told.
        log_every: so many steps, and at the last one.

    Attributes:
        start: the first step to take.
    """

    def __init__(
        self, path: Path, parts: Mapping[str, Stateful], steps: int, log: logging.Logger, log_every: int
    ) -> None:
        self._path, self._parts, self._steps = path, parts, steps
        self._log, self._log_every = log, log_every
        self.start = load(path, parts)
        self._begin = self._last_save = time.monotonic()

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self._steps))

    def last(self, step: int) -> bool:
        """Whether the run ends with this step."""
        return step == self._steps - 1

    def after(self, step: int, loss: Tensor, note: str = "") -> bool:
        """Log and write a checkpoint where they are due; return whether one was written."""
        now = time.monotonic()
        if step % self._log_every == 0 or self.last(step):
            rate = (step - self.start + 1) / (now - self._begin)
            self._log.info("step %d %sloss %.5f %.2f step/s", step, note, loss.item(), rate)
        due = now - self._last_save > CHECKPOINT_SECONDS or self.last(step)
        if due:
            save(self._path, step + 1, self._parts)
            self._last_save = now
        return due


def descend(loss: Tensor, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Take one step against the gradient, its length clipped to 1."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def follow(average: nn.Module, model: nn.Module, step: int, limit: float) -> None:
    """Move an exponential moving average of the weights; it starts fast and keeps `limit` of itself later."""
    decay = min(limit, (1 + step) / (10 + step))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
