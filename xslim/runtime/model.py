"""The live transformer as the runtime sees it: its blocks, how they are called, what they cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xslim.errors import UnsupportedModelError
from xslim.runtime.adapters import ADAPTERS, BlockAdapter, Stack
from xslim.runtime.calls import BlockCall, Call, parameter_names
from xslim.runtime.macs import LEFT_OUT, MacsTable, bare_copy, count, count_block, fake_arguments, stand_in


class LiveModel:
    """One transformer, its adapter and its blocks in the order they run.

    Raises:
        UnsupportedModelError: no adapter knows the class, or it has no blocks.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self.adapter: BlockAdapter = ADAPTERS[type(transformer).__name__]
        self.transformer = transformer
        self.blocks: list[nn.Module] = []
        self.stacks: list[Stack] = []  # one entry a block
        for stack in self.adapter.stacks:
            members = list(transformer.get_submodule(stack.path).children())
            self.blocks += members
            self.stacks += [stack] * len(members)
        if not self.blocks:
            raise UnsupportedModelError(f"{type(transformer).__name__} has no blocks; nothing to cache")
        self.kinds = [stack.kind for stack in self.stacks]
        self.depths = [self.kinds[:index].count(kind) for index, kind in enumerate(self.kinds)]
        path = self.adapter.text_embedder
        self.text_embedder = None if path is None else transformer.get_submodule(path)
        self._root = parameter_names(transformer)
        self._names = [parameter_names(block) for block in self.blocks]

    @property
    def no_tokens(self) -> str | None:
        """Why token refresh does not work on this model, or None."""
        return self.adapter.no_tokens(getattr(self.transformer, "config", {}))

    def root_call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """Name the arguments of a call of the transformer."""
        return Call(self._root, args, kwargs)

    def call(
        self, block: int, args: Sequence[Any], kwargs: Mapping[str, Any], image_tokens: int | None = None
    ) -> BlockCall:
        """Name the arguments of a call of a block; the first block tells the number of image tokens."""
        return BlockCall(self.stacks[block], self._names[block], args, kwargs, image_tokens)

    def modulated(self, call: BlockCall) -> Tensor:
        """Return the first block's modulated input from its arguments."""
        return self.adapter.modulated(self.blocks[0], call)

    def time_embedding(self, call: BlockCall) -> Tensor:
        """Return what modulates the first block, [batch, ...]."""
        return self.adapter.time_embedding(self.blocks[0], call)

    def count_macs(self, rows: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> MacsTable:
        """Count the MACs of a call on fake tensors, with nobody's hooks running.

        Args:
            rows: samples in the call.
            args: positional arguments of the transformer.
            kwargs: its keyword arguments.
        """
        fake_args, fake_kwargs, mode = fake_arguments(args, kwargs)
        with mode, torch.no_grad():
            device = next(leaf.device for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor))
            bare = LiveModel(bare_copy(self.transformer, stand_in(device)))
            calls: dict[int, BlockCall] = {}
            texts: list[Callable[[], object]] = []
            if bare.text_embedder is not None:
                bare.text_embedder.register_forward_pre_hook(partial(_note_text, texts), with_kwargs=True)
            for index, block in enumerate(bare.blocks):
                note = partial(_note_call, calls, bare, index)
                block.register_forward_pre_hook(note, with_kwargs=True)
            total = count(lambda: bare.transformer(*fake_args, **fake_kwargs)) / rows
            builds = [_build(block) for block in bare.blocks]
            tokens = self.no_tokens is None
            costs = {
                build: count_block(bare.blocks[i].forward, calls[i], tokens)
                for build, i in {builds[i]: i for i in calls}.items()
            }
            blocks = tuple(costs[build] if i in calls else LEFT_OUT for i, build in enumerate(builds))
            modulation = count(lambda: bare.modulated(calls[0])) / rows
            embedding = count(lambda: bare.time_embedding(calls[0])) / rows
            text = count(texts[0]) / rows if texts else 0.0
        return MacsTable(total, blocks, modulation, embedding, text)


def _build(block: nn.Module) -> tuple[object, ...]:
    """What blocks of equal cost have in common; counting is slow, and most blocks are alike."""
    return (type(block), *((name, tuple(p.shape)) for name, p in block.named_parameters()))


def _note_text(calls: list[Callable[[], object]], embedder: nn.Module, args: Any, kwargs: Any) -> None:
    calls.append(partial(embedder.forward, *args, **kwargs))


def _note_call(
    calls: dict[int, BlockCall], model: LiveModel, block: int, _: nn.Module, args: Any, kwargs: Any
) -> None:
    first = calls.get(0)
    calls[block] = model.call(block, args, kwargs, None if first is None else first.image_tokens)
