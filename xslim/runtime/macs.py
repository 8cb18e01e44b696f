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

from xslim.runtime.attention import KeepKeysValues, RefreshKeysValues
from xslim.runtime.calls import BlockCall
from xslim.runtime.rows import Rows

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


def count_block(forward: Callable[..., object], call: BlockCall, tokens: bool) -> BlockMacs:
    """Count one block on a fake call.

    Every layer's cost is a fixed part plus a part per image token that queries run for: two counts, with
    all tokens and with half of them against the keys and values of all, tell the two apart.

    Args:
        forward: the block's forward.
        call: its call, on fake tensors.
        tokens: whether token refreshes are possible; without them all cost is counted as per token.
    """
    everyone = call.image_tokens
    half = max(1, everyone // 2)
    with KeepKeysValues(call.stack.attention) as keep:
        whole = count(lambda: call.run(forward)) / call.rows
    if half == everyone or not tokens:
        return BlockMacs(0.0, whole / everyone, everyone)
    one = call.of_rows(Rows.of([row == 0 for row in range(call.rows)], call.streams.image.device))
    index = torch.arange(half, device=call.streams.image.device)[None]
    kept = tuple(tensor[:1] for tensor in keep.kept)
    with RefreshKeysValues(call.stack.attention, kept, index):
        part = count(lambda: one.of_tokens(index).run(forward))
    slope = (whole - part) / (everyone - half)
    return BlockMacs(max(0.0, whole - slope * everyone), slope, everyone)


def fake_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any, FakeTensorMode]:
    """Return fake copies of a call's arguments, and their mode."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def convert(value: Any) -> Any:
        return mode.from_tensor(value.detach()) if isinstance(value, Tensor) else value

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
