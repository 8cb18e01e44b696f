"""Multiply-accumulates of a transformer, counted once per input shape on fake tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from xslim.runtime.attention import KeepKeysValues, RefreshKeysValues
from xslim.runtime.calls import BlockCall
from xslim.runtime.rows import Rows

FLOPS_PER_MAC = 2
COUNTING = 2  # goes up when the same steps are counted otherwise; 2 leaves out text that no block reads
MASK_SIZE = 2**20  # largest tensor of whole numbers that is taken for a mask or for positions


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


LEFT_OUT = BlockMacs(0.0, 0.0, 0)  # a block that a call does not run, as in skip-layer guidance


@dataclass(frozen=True, slots=True)
class MacsTable:
    """MACs of one call, per sample.

    Attributes:
        total: the uncached call.
        blocks: one entry a block.
        modulation: the extra cost of measuring the modulated input.
        embedding: the extra cost of measuring the embedding that modulates the first block.
        text: what the text embedder takes, which may be left out where no block runs; part of `outside`.
        counted: in MACs; False for what stands in where a model cannot be counted.
    """

    total: float
    blocks: tuple[BlockMacs, ...]
    modulation: float
    embedding: float
    text: float = 0.0
    counted: bool = True

    @classmethod
    def uniform(cls, blocks: int) -> MacsTable:
        """What stands in when a model cannot be counted: every block costs 1, everything else nothing."""
        return cls(float(blocks), (BlockMacs(1.0, 0.0, 0),) * blocks, 0.0, 0.0, counted=False)

    @property
    def outside(self) -> float:
        """What runs around the blocks: embedders and output layers."""
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


class CountingMode(FakeTensorMode):
    """Fake tensors, but masks and positions keep their values, because shapes may follow from them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation: for real where all its tensors have values, else on fake tensors."""
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if tensors and all(_has_value(tensor) for tensor in tensors):
            return func(*args, **kwargs)
        if func is torch.ops.aten.index.Tensor:  # a mask of known values selects a known number
            args = (args[0], _positions(args[1]))
        return super().__torch_dispatch__(func, types, args, kwargs)  # type: ignore[no-untyped-call]


def _has_value(tensor: Tensor) -> bool:
    """Whether a tensor holds known whole numbers or flags; the size leaves quantised weights out."""
    whole = not (tensor.is_floating_point() or tensor.is_complex())
    return whole and not isinstance(tensor, FakeTensor) and tensor.numel() <= MASK_SIZE


def _positions(indices: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Indices with masks made into positions."""
    found: list[Tensor | None] = []
    for index in indices:
        mask = index is not None and index.dtype == torch.bool and _has_value(index)
        found += index.nonzero().unbind(1) if mask and index is not None else [index]
    return found


def fake_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any, FakeTensorMode]:
    """Return copies of a call's arguments without values, but for masks and positions, and their mode."""
    mode = CountingMode(allow_non_fake_inputs=True)

    def convert(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.detach().clone() if _has_value(value) else mode.from_tensor(value.detach())

    return tree_map(convert, tuple(args)), tree_map(convert, dict(kwargs)), mode


def stand_in(device: torch.device) -> Callable[[Tensor], Tensor]:
    """Make weights into fake ones on a device; offloaded weights are elsewhere between two calls."""

    def convert(weight: Tensor) -> Tensor:
        if type(weight) is not nn.Parameter:  # a quantised weight knows its own operations
            return weight
        fake = torch.empty_strided(weight.size(), weight.stride(), dtype=weight.dtype, device=device)
        return nn.Parameter(fake, requires_grad=False)

    return convert


def bare_copy(module: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """Copy a tree of modules: converted parameters, no hooks, forwards as the classes define them.

    What a forward keeps on the module or on an object of its own stays with the copy.
    """
    bare = type(module).__new__(type(module))
    plain = nn.Module().__dict__
    hooks = {name: value for name, value in plain.items() if name.endswith(("_hooks", "_hooks_with_kwargs"))}
    own = {name: _own(value) for name, value in module.__dict__.items()}
    bare.__dict__.update({**own, **hooks, "_compiled_call_impl": None})
    bare.__dict__.pop("forward", None)
    bare.__dict__["_parameters"] = {
        name: None if weight is None else convert(weight) for name, weight in module._parameters.items()
    }
    bare.__dict__["_modules"] = {
        name: None if child is None else bare_copy(child, convert) for name, child in module._modules.items()
    }
    return bare


def _own(value: Any) -> Any:
    """A shallow copy of a plain object or container; what else there is, is shared."""
    container = type(value) in (dict, list, set)
    plain = hasattr(value, "__dict__") and not isinstance(value, Tensor | nn.Module | Mapping)
    return copy.copy(value) if container or plain else value
