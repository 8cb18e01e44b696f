"""Fixtures of the conformance suites."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import TINY, Tiny
from xslim.runtime.adapters import ADAPTERS
from xslim.runtime.model import LiveModel


@pytest.fixture(params=sorted(ADAPTERS))
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """The tiny model of one adapter; a new adapter needs its entry in tests/tiny.py."""
    return TINY[request.param]


class StackProbe:
    """Notes what enters the first block and what leaves the last one, by plain torch hooks."""

    def __init__(self, model: nn.Module) -> None:
        live = LiveModel(model)
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []

        def enter(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            self.inputs.append(live.call(0, args, kwargs).streams.image.detach().clone())

        def leave(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object], output: object) -> None:
            call = live.call(len(live.blocks) - 1, args, kwargs, self.inputs[-1].shape[1])
            self.outputs.append(call.unpack(output).image.detach().clone())

        self.handles = [
            live.blocks[0].register_forward_pre_hook(enter, with_kwargs=True),
            live.blocks[-1].register_forward_hook(leave, with_kwargs=True),
        ]

    def residual(self, step: int) -> Tensor:
        return self.outputs[step] - self.inputs[step]


class BlockCounter:
    """Counts samples through every block's attention: only a block that really runs calls it."""

    def __init__(self, modules: list[nn.Module]) -> None:
        self.rows = [0] * len(modules)
        for index, module in enumerate(modules):
            module.register_forward_pre_hook(self._count(index), with_kwargs=True)

    def _count(self, index: int) -> Callable[..., None]:
        def count(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            first = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
            self.rows[index] += len(first)

        return count


@pytest.fixture
def stack_probe() -> type[StackProbe]:
    return StackProbe


@pytest.fixture
def block_counter() -> type[BlockCounter]:
    return BlockCounter
