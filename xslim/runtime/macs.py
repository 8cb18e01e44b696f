"""Multiply-accumulates of a transformer, counted once per input shape on fake tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

FLOPS_PER_MAC = 2


def _cpu_flash(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Formula of the CPU's fused attention, which PyTorch's counter leaves out."""
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


FORMULAS = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _cpu_flash}


@dataclass(frozen=True, slots=True)
class BlockMacs:
    """MACs of one block for one sample: a part that does not depend on tokens, and a part that does."""

    fixed: float
    per_token: float
    tokens: int

    def at(self, tokens: int) -> float:
        """MACs when `tokens` queries run against the keys and values of all tokens."""
        return self.fixed + self.per_token * tokens

    @property
    def full(self) -> float:
        """MACs of the whole block."""
        return self.at(self.tokens)


@dataclass(frozen=True, slots=True)
class MacsTable:
    """MACs of one call, per sample.

    Attributes:
        total: the uncached call.
        blocks: one entry a block.
        modulation: the extra cost of measuring the modulated input.
    """

    total: float
    blocks: tuple[BlockMacs, ...]
    modulation: float

    @property
    def outside(self) -> float:
        """What runs at every step: embedders and output layers."""
        return self.total - sum(block.full for block in self.blocks)


def count(call: Callable[[], object]) -> float:
    """MACs of a call whose tensors are all fake."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        call()
    return float(counter.get_total_flops()) / FLOPS_PER_MAC


def first_row(value: Any, rows: int) -> Any:
    """Cut tensors whose first dimension is the batch to one sample."""
    if isinstance(value, Tensor) and value.dim() > 0 and value.shape[0] == rows:
        return value[:1]
    return value


def count_block(forward: Callable[..., object], arguments: Mapping[str, Any], hidden: str) -> BlockMacs:
    """Count one block on fake arguments of one sample.

    Linear layers grow with the tokens by a fixed amount each; attention grows with queries times keys.
    Two counts (all tokens, half of them) tell the fixed part from the part per token, once the attention
    of the half has been put at its cost against all keys.
    """
    tokens = arguments[hidden].shape[1]
    half = max(1, tokens // 2)
    whole_linear, whole_attention = _split(forward, arguments)
    if half == tokens:
        return BlockMacs(0.0, whole_linear + whole_attention, tokens)
    half_linear, _ = _split(forward, {**arguments, hidden: arguments[hidden][:, :half]})
    slope = (whole_linear - half_linear) / (tokens - half)
    fixed = max(0.0, whole_linear - slope * tokens)
    return BlockMacs(fixed, (whole_linear - fixed + whole_attention) / tokens, tokens)


def _split(forward: Callable[..., object], arguments: Mapping[str, Any]) -> tuple[float, float]:
    """MACs of a call in linear layers, and in attention."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        forward(**arguments)
    by_op = counter.get_flop_counts()["Global"]
    attention = sum(flops for op, flops in by_op.items() if "attention" in str(op))
    return (sum(by_op.values()) - attention) / FLOPS_PER_MAC, attention / FLOPS_PER_MAC


def fake_arguments(
    rows: int, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Any, FakeTensorMode]:
    """Return fake copies of one sample of a call's arguments, and their mode."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def convert(value: Any) -> Any:
        cut = first_row(value, rows)
        return mode.from_tensor(cut.detach()) if isinstance(cut, Tensor) else cut

    return tree_map(convert, tuple(args)), tree_map(convert, dict(kwargs)), mode


def bare_copy(module: nn.Module) -> nn.Module:
    """Copy a tree of modules: same parameters, no hooks, forwards as the classes define them."""
    bare = type(module).__new__(type(module))
    plain = nn.Module().__dict__
    hooks = {name: value for name, value in plain.items() if name.endswith(("_hooks", "_hooks_with_kwargs"))}
    bare.__dict__.update({**module.__dict__, **hooks, "_compiled_call_impl": None})
    bare.__dict__.pop("forward", None)
    bare.__dict__["_modules"] = {
        name: None if child is None else bare_copy(child) for name, child in module._modules.items()
    }
    return bare
