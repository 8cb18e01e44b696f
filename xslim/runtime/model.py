"""The live transformer as the runtime sees it: its blocks, how they are called, what they cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from xslim.errors import UnsupportedModelError
from xslim.runtime.adapters import ADAPTERS, BlockAdapter
from xslim.runtime.macs import MacsTable, count, count_block, fake_arguments


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
        result = norm(**{name: arguments[source] for name, source in call.arguments})
        tensor: Tensor = result[0] if isinstance(result, tuple) else result
        return tensor

    def count_macs(
        self, rows: int, args: Sequence[Any], kwargs: Mapping[str, Any], on_block: Callable[..., Any]
    ) -> MacsTable:
        """Count the MACs of a call on fake tensors.

        Args:
            rows: samples in the call.
            args: positional arguments of the transformer.
            kwargs: its keyword arguments.
            on_block: setter that makes the block hooks report their calls to a function
                (block, forward, arguments) instead of applying the policy.
        """
        blocks: dict[int, Any] = {}
        modulation = 0.0

        def note(block: int, forward: Callable[..., Any], arguments: dict[str, Any]) -> None:
            nonlocal modulation
            blocks[block] = count_block(forward, arguments, self.adapter.hidden)
            if block == 0:
                modulation = count(lambda: self.modulated(arguments))

        fake_args, fake_kwargs, mode = fake_arguments(rows, args, kwargs)
        forward = type(self.transformer).forward
        with mode, on_block(None):
            total = count(lambda: forward(self.transformer, *fake_args, **fake_kwargs))
        with mode, on_block(note):
            forward(self.transformer, *fake_args, **fake_kwargs)
        return MacsTable(total, tuple(blocks[i] for i in range(len(self.blocks))), modulation)


def _bind(
    signature: inspect.Signature, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    bound = signature.bind(module, *args, **kwargs)
    named = dict(bound.arguments)
    named.pop(next(iter(signature.parameters)))
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            named.update(named.pop(name, {}))
    return named
