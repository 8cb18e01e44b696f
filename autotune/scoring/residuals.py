"""Residuals of the stack of blocks, recorded call by call while the uncached model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from autotune.scoring.pipeline import PipelineRunner
from xslim.errors import ConfigError
from xslim.runtime.model import LiveModel

MAX_TOKENS = 4096  # whose residuals are kept: a video has 100,000, which would fill a machine's memory


class Recorded:
    """Stack residuals of every call, and the latent's shape.

    Attributes:
        residuals: each [rows, tokens, dim], fp32 on the CPU; of long sequences, evenly spaced tokens.
        share: all image tokens by those that are kept.
        latent_shape: of a call.
    """

    def __init__(self) -> None:
        self.residuals: list[Tensor] = []
        self.share = 1.0
        self.latent_shape: tuple[int, ...] = ()

    def add(self, residual: Tensor) -> None:
        """Note the residual of a call, [rows, tokens, dim]."""
        tokens = residual.shape[1]
        if tokens > MAX_TOKENS:
            kept = torch.linspace(0, tokens - 1, MAX_TOKENS, device=residual.device).round().long()
            residual, self.share = residual[:, kept], tokens / MAX_TOKENS
        self.residuals.append(residual.float().cpu())

    def by_step(self, steps: int) -> Tensor:
        """The residuals as [steps, rows, tokens, dim]; guidance in calls of its own gives rows of its own.

        Raises:
            ConfigError: the calls are not as many at every step.
        """
        calls, rest = divmod(len(self.residuals), steps)
        if rest or not calls:
            raise ConfigError(
                f"the transformer was called {len(self.residuals)} times in {steps} steps; "
                "allowed are as many calls at every step",
                key="model.num_steps",
            )
        if calls == 1:
            return torch.stack(self.residuals)
        return torch.stack([torch.cat(self.residuals[i * calls : (i + 1) * calls]) for i in range(steps)])


@contextmanager
def record_residuals(runner: PipelineRunner) -> Iterator[Recorded]:
    """Record what the stack of blocks adds, call by call, with plain PyTorch hooks."""
    model = LiveModel(runner.pipe.transformer)
    recorded = Recorded()
    last = len(model.blocks) - 1
    entered: list[Tensor] = []

    def before(_: Any, args: Any, kwargs: Any) -> None:
        entered[:] = [model.call(0, args, kwargs).streams.image]

    def after(_: Any, args: Any, kwargs: Any, output: Any) -> None:
        left = model.call(last, args, kwargs, entered[0].shape[1]).unpack(output).image
        recorded.add(left - entered[0])

    def root(_: Any, args: Any, kwargs: Any) -> None:
        recorded.latent_shape = tuple(model.root_call(args, kwargs).tensor(model.adapter.latent).shape)

    handles = [
        model.blocks[0].register_forward_pre_hook(before, with_kwargs=True),
        model.blocks[-1].register_forward_hook(after, with_kwargs=True),
        model.transformer.register_forward_pre_hook(root, with_kwargs=True),
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
