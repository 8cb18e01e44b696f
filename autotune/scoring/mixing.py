"""Runs a pipeline whose blocks mix what they compute with what they added at an earlier step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.pipeline.watching import StepCount
from autotune.scoring.residuals import model_output
from xslim.runtime.calls import Streams, stacked
from xslim.runtime.model import LiveModel

THRESHOLD = 0.5  # weight above which a block counts as computed, and what it computed is kept
# shares by transformer and latent shape: counting takes a while, and mixers come and go
_COUNTED: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], Tensor]] = WeakKeyDictionary()

Weights = Callable[[int], Tensor]
Note = Callable[[int, Tensor, Tensor], None]


def mix(entered: Streams, fresh: Streams, cached: Streams, weight: Tensor) -> Streams:
    """What leaves a block: what entered, w of what it adds now, and 1 - w of what it added before.

    Args:
        entered: into the block, [rows, tokens, dim].
        fresh: that the block computed from it.
        cached: what the block added to both streams at an earlier step.
        weight: w, a number.

    Source: arXiv:2410.01723, there for modules before their gate.
    """
    added = (fresh - entered).map(lambda part: part * weight)
    return entered + (added + cached.map(lambda part: part * (1 - weight)))


class Mixer:
    """Block hooks that mix, request after request.

    Args:
        runner: of the pipeline.
        weights: of the blocks, [blocks], by step; the first step's are 1 and not asked for.
        note: told each mixed call while its gradients can be taken: the step, and the transformer's plain and
            mixed output in fp32, [rows, …].

    Attributes:
        model: whose blocks.
    """

    def __init__(self, runner: PipelineRunner, weights: Weights, note: Note) -> None:
        self.model = LiveModel(runner.pipe.transformer)
        self._call: tuple[Any, Any] | None = None  # of the transformer, in progress
        self._runner, self._weights, self._note = runner, weights, note
        self._count = StepCount()
        self._cached: dict[tuple[int, int], Streams] = {}  # by call of a step and block
        self._image_tokens: int | None = None
        self._row: Tensor | None = None  # weights of the blocks while they mix

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Mix the calls of one request inside; a pipeline's own loop decides what they are."""
        root = self.model.transformer
        handles = [root.register_forward_hook(self._called, with_kwargs=True)]
        for block, module in enumerate(self.model.blocks):
            hook = partial(self._block, block)
            handles.append(module.register_forward_hook(hook, with_kwargs=True))
        try:
            with self._count.of(self._runner.pipe.scheduler):
                yield
        finally:
            self._call = None
            self._cached.clear()
            for handle in handles:
                handle.remove()

    def _called(self, root: Any, args: Any, kwargs: Any, output: Any) -> Any:
        """After a plain call, which is the reference at this latent: the call again, mixed.

        The first step's is not mixed; it fills what is kept.
        """
        self._count.enter()
        step = self._count.step
        self._call = (args, kwargs)
        with torch.enable_grad():
            self._row = torch.ones(len(self.model.blocks)) if step == 0 else self._weights(step)
            mixed = root.forward(*args, **kwargs)
            self._row = None
            if step > 0:
                self._note(step, model_output(output), model_output(mixed))
        if isinstance(mixed, tuple):
            return tuple(part.detach() if isinstance(part, Tensor) else part for part in mixed)
        mixed.sample = mixed.sample.detach()
        return mixed

    def shares(self) -> Tensor:
        """Each block's share of the MACs of all, [blocks]; to be asked for while a call is noted."""
        if self._call is None:
            raise RuntimeError("shares are known while a call runs")
        args, kwargs = self._call
        latent = stacked(self.model.root_call(args, kwargs).get(self.model.adapter.latent))
        counted = _COUNTED.setdefault(self.model.transformer, {})
        if latent.shape not in counted:
            table = self.model.count_macs(latent.shape[0], args, kwargs)
            costs = torch.tensor([block.full for block in table.blocks])
            counted[latent.shape] = costs / costs.sum()
        return counted[latent.shape]

    def _block(self, block: int, _: Any, args: Any, kwargs: Any, output: Any) -> Any:
        if self._row is None:
            return None
        call = self.model.call(block, args, kwargs, self._image_tokens if block else None)
        self._image_tokens = call.image_tokens
        fresh, entered = call.unpack(output), call.streams
        key, weight = (self._count.call, block), self._row[block].to(fresh.image.device)
        before = self._cached.get(key)
        if before is None or float(weight.detach()) > THRESHOLD:
            self._cached[key] = (fresh - entered).map(Tensor.detach)
        return None if before is None else call.pack(mix(entered, fresh, before, weight))
