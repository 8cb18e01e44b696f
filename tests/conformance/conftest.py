"""Fixtures of the conformance suites. One model a family serves all of them: detaching leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import TINY, VARIANTS, Tiny
from xslim.runtime.adapters import ADAPTERS
from xslim.runtime.model import LiveModel


@cache
def built(name: str) -> nn.Module:
    """A tiny model; its cost is counted once for every shape."""
    return {**TINY, **VARIANTS}[name].build()


@pytest.fixture(params=sorted(ADAPTERS), scope="module")
def tiny(request: pytest.FixtureRequest) -> Tiny:
    """The tiny model of one adapter; a new adapter needs its entry in tests/tiny."""
    return TINY[request.param]


@pytest.fixture(params=[*sorted(ADAPTERS), *VARIANTS], scope="module")
def tiny_call(request: pytest.FixtureRequest) -> Tiny:
    """As `tiny`, and the models that are called in more than one way."""
    return {**TINY, **VARIANTS}[request.param]


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> nn.Module:
    """The model of `tiny`."""
    return built(tiny.name)


@pytest.fixture(scope="module")
def called_model(tiny_call: Tiny) -> nn.Module:
    """The model of `tiny_call`."""
    return built(tiny_call.name)


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
        self.handles = [
            module.register_forward_pre_hook(self._count(index), with_kwargs=True)
            for index, module in enumerate(modules)
        ]

    def _count(self, index: int) -> Callable[..., None]:
        def count(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
            first = next(v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
            self.rows[index] += len(first)

        return count


@pytest.fixture
def stack_probe() -> Iterator[Callable[[nn.Module], StackProbe]]:
    """A probe of a model; its hooks go with the test."""
    yield from _cleaned(StackProbe)


@pytest.fixture
def block_counter() -> Iterator[Callable[[list[nn.Module]], BlockCounter]]:
    """A counter of attention modules; its hooks go with the test."""
    yield from _cleaned(BlockCounter)


def _cleaned(kind: Callable[..., StackProbe | BlockCounter]) -> Iterator[Callable[..., object]]:
    made: list[StackProbe | BlockCounter] = []

    def make(target: object) -> object:
        made.append(kind(target))
        return made[-1]

    yield make
    for probe in made:
        for handle in probe.handles:
            handle.remove()


def fitting(model: nn.Module, pattern: str) -> str:
    """A pattern that the model can follow: block refreshes where it has no token refreshes."""
    return pattern if LiveModel(model).no_tokens is None else pattern.replace("T", "B")
