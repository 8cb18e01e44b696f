"""Residuals of the stack and of its blocks, recorded call by call while the uncached model runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from autotune.scoring.pipeline import PipelineRunner
from xslim.errors import ConfigError
from xslim.runtime.calls import stacked
from xslim.runtime.model import LiveModel

MAX_TOKENS = 4096  # whose residuals are kept: a video has 100,000, which would fill a machine's memory
BLOCK_VALUES = 2**14  # of a sample's residual in one block; there are up to 60 blocks and 50 steps


class Recorded:
    """Residuals of every call, and the latent's shape.

    Attributes:
        residuals: of the stack, each [rows, tokens, dim], fp32 on the CPU; of long sequences, evenly spaced
            tokens.
        blocks: of every block in turn, each [rows, values], evenly spaced values of what it adds.
        share: all image tokens by those that are kept.
        latent_shape: of a call.
    """

    def __init__(self) -> None:
        self.residuals: list[Tensor] = []
        self.blocks: list[Tensor] = []
        self.share = 1.0
        self.latent_shape: tuple[int, ...] = ()

    def add(self, residual: Tensor) -> None:
        """Note the stack's residual of a call, [rows, tokens, dim]."""
        tokens = residual.shape[1]
        if tokens > MAX_TOKENS:
            residual, self.share = residual[:, _evenly(tokens, MAX_TOKENS, residual)], tokens / MAX_TOKENS
        self.residuals.append(residual.float().cpu())

    def add_block(self, residual: Tensor) -> None:
        """Note a block's residual, [rows, tokens, dim]; the blocks come in the order of their depth."""
        values = residual.flatten(1)
        if values.shape[1] > BLOCK_VALUES:
            values = values[:, _evenly(values.shape[1], BLOCK_VALUES, values)]
        self.blocks.append(values.float().cpu())

    def by_step(self, steps: int) -> Tensor:
        """The stack's residuals as [steps, rows, tokens, dim]; guidance in calls of its own gives more rows.

        Raises:
            ConfigError: the calls are not as many at every step.
        """
        return _by_step(self.residuals, steps)

    def by_block(self, steps: int, blocks: int) -> Iterator[Tensor]:
        """Each block's residuals as [steps, rows, values]. Errors as above."""
        for block in range(blocks):
            yield _by_step(self.blocks[block::blocks], steps)


def _evenly(of: int, count: int, like: Tensor) -> Tensor:
    return torch.linspace(0, of - 1, count, device=like.device, dtype=torch.float64).round().long()


def _by_step(found: Sequence[Tensor], steps: int) -> Tensor:
    calls, rest = divmod(len(found), steps)
    if rest or not calls:
        raise ConfigError(
            f"the transformer was called {len(found)} times in {steps} steps; "
            "allowed are as many calls at every step",
            key="model.num_steps",
        )
    return torch.stack([torch.cat(list(found[i * calls : (i + 1) * calls])) for i in range(steps)])


def model_output(output: Any) -> Tensor:
    """What a transformer returned as one tensor in fp32, [samples, …]."""
    return stacked(output[0] if isinstance(output, tuple) else output.sample).float()


@contextmanager
def record_residuals(runner: PipelineRunner) -> Iterator[Recorded]:
    """Record what the stack and each block add, call by call, with plain PyTorch hooks."""
    model = LiveModel(runner.pipe.transformer)
    recorded = Recorded()
    last = len(model.blocks) - 1
    entered: list[Tensor] = []  # into the stack, and into the block that runs

    def before(block: int, _: Any, args: Any, kwargs: Any) -> None:
        image_tokens = entered[0].shape[1] if block else None
        entered[bool(block) :] = [model.call(block, args, kwargs, image_tokens).streams.image]

    def after(block: int, _: Any, args: Any, kwargs: Any, output: Any) -> None:
        left = model.call(block, args, kwargs, entered[0].shape[1]).unpack(output).image
        recorded.add_block(left - entered[-1])
        if block == last:
            recorded.add(left - entered[0])

    def root(_: Any, args: Any, kwargs: Any) -> None:
        recorded.latent_shape = tuple(model.root_call(args, kwargs).tensor(model.adapter.latent).shape)

    handles = [model.transformer.register_forward_pre_hook(root, with_kwargs=True)]
    for block, module in enumerate(model.blocks):
        handles.append(module.register_forward_pre_hook(partial(before, block), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(after, block), with_kwargs=True))
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()
