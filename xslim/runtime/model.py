"""The live transformer as the runtime sees it: its blocks, how they are called, what they cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xslim.errors import UnsupportedModelError
from xslim.runtime.adapters import ADAPTERS, BlockAdapter
from xslim.runtime.macs import MacsTable, bare_copy, count, count_block, fake_arguments


class LiveModel:
    """One transformer, its adapter and its blocks in the order they run.

    Raises:
        UnsupportedModelError: no adapter knows the class, or it has no blocks.
    """

    def __init__(self, transformer: nn.Module) -> None:
        self.adapter: BlockAdapter = ADAPTERS[type(transformer).__name__]
        self.transformer = transformer
        self.blocks: list[nn.Module] = []
        self.kinds: list[str] = []
        for stack in self.adapter.stacks:
            members = list(transformer.get_submodule(stack.path).children())
            self.blocks += members
            self.kinds += [stack.kind] * len(members)
        if not self.blocks:
            raise UnsupportedModelError(f"{type(transformer).__name__} has no blocks; nothing to cache")
        self._root = inspect.signature(type(transformer).forward)
        self._signatures = [inspect.signature(type(block).forward) for block in self.blocks]

    def root_arguments(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call of the transformer."""
        return _bind(self._root, self.transformer, args, kwargs)

    def block_arguments(self, block: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Name the arguments of a call of a block."""
        return _bind(self._signatures[block], self.blocks[block], args, kwargs)

    def rows_of(self, arguments: Mapping[str, Any], take: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        """Cut a block's arguments down to some samples."""
        names = (self.adapter.hidden, *self.adapter.row_arguments)
        return {
            name: take(value) if name in names and isinstance(value, Tensor) else value
            for name, value in arguments.items()
        }

    def modulated(self, arguments: Mapping[str, Any]) -> Tensor:
        """Return the first block's modulated input from its arguments."""
        call = self.adapter.modulation
        norm = self.blocks[0].get_submodule(call.path)
        given = {name: arguments[source] for name, source in call.arguments}
        if call.dtype_argument is not None:
            given[call.dtype_argument] = arguments[self.adapter.hidden].dtype
        result = norm(**given)
        tensor: Tensor = result[0] if isinstance(result, tuple) else result
        return tensor

    def count_macs(self, rows: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> MacsTable:
        """Count the MACs of a call on fake tensors, with nobody's hooks running.

        Args:
            rows: samples in the call.
            args: positional arguments of the transformer.
            kwargs: its keyword arguments.
        """
        bare = LiveModel(bare_copy(self.transformer))
        calls: dict[int, dict[str, Any]] = {}
        fake_args, fake_kwargs, mode = fake_arguments(rows, args, kwargs)
        with mode, torch.no_grad():
            for index, block in enumerate(bare.blocks):
                note = partial(_note_call, calls, bare, index)
                block.register_forward_pre_hook(note, with_kwargs=True)
            total = count(lambda: bare.transformer(*fake_args, **fake_kwargs))
            builds = [_build(block) for block in bare.blocks]
            costs = {
                build: count_block(bare.blocks[i].forward, calls[i], self.adapter.hidden)
                for build, i in {build: i for i, build in enumerate(builds)}.items()
            }
            modulation = count(lambda: bare.modulated(calls[0]))
        return MacsTable(total, tuple(costs[build] for build in builds), modulation)


def _build(block: nn.Module) -> tuple[object, ...]:
    """What blocks of equal cost have in common; counting is slow, and most blocks are alike."""
    return (type(block), *((name, tuple(p.shape)) for name, p in block.named_parameters()))


def _note_call(
    calls: dict[int, dict[str, Any]], model: LiveModel, block: int, _: nn.Module, args: Any, kwargs: Any
) -> None:
    calls[block] = model.block_arguments(block, args, kwargs)


def _bind(
    signature: inspect.Signature, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = [name for name, parameter in signature.parameters.items() if parameter.kind is plain][1:]
    if len(args) <= len(names) and kwargs.keys() <= set(names[len(args) :]):  # nearly always; bind is slow
        return {**dict(zip(names, args, strict=False)), **kwargs}
    bound = signature.bind(module, *args, **kwargs)
    named = dict(bound.arguments)
    named.pop(next(iter(signature.parameters)))
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
    return named
