"""Keys and values of the whole sequence for a token refresh.

One mechanism for every family: a `TorchFunctionMode`, entered around a single block call, that sees
`scaled_dot_product_attention`. It is thread-local and patches nothing. It sees PyTorch's own
attention only; other backends keep no keys and values, and token refreshes then run full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xslim.runtime.adapters.base import Attention

KeyValue = tuple[Tensor, ...]  # keys, values of each kept call; each [rows, heads, tokens, head dim]
_NAMES = ("query", "key", "value", "attn_mask")


class KeepKeysValues(TorchFunctionMode):
    """Notes the keys and values of a block's attention calls over its own tokens.

    Args:
        calls: the block's attention calls in the order they run; `cross` is passed through.

    Attributes:
        kept: what was seen; empty when no call was.
    """

    def __init__(self, calls: Sequence[Attention]) -> None:
        super().__init__()
        self._calls = calls
        self._seen = 0
        self.kept: KeyValue = ()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        kind = self._calls[self._seen] if self._seen < len(self._calls) else "cross"
        self._seen += 1
        if kind == "cross":
            return func(*args, **kwargs)
        given = {**dict(zip(_NAMES, args, strict=False)), **kwargs}
        key, value, mask = self.attend(kind, given["key"], given["value"], given.get("attn_mask"))
        self.kept += (_own(key), _own(value))
        rest = {name: item for name, item in kwargs.items() if name not in _NAMES}
        return func(given["query"], key, value, mask, *args[len(_NAMES) :], **rest)

    def attend(
        self, kind: Attention, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the keys, values and mask that the call attends to."""
        return key, value, mask


def _own(part: Tensor) -> Tensor:
    """A tensor that keeps nothing else alive: fused projections give keys and values as slices of one."""
    return part.clone() if part.untyped_storage().nbytes() > part.nbytes else part


class RefreshKeysValues(KeepKeysValues):
    """Lets the chosen tokens attend to the whole sequence: fresh entries are written into the kept ones.

    Args:
        calls: as for `KeepKeysValues`.
        kept: what it kept at the last computed step.
        index: chosen image tokens, [rows, chosen].
    """

    def __init__(self, calls: Sequence[Attention], kept: KeyValue, index: Tensor) -> None:
        super().__init__(calls)
        self._old = kept
        self._index = index

    def attend(
        self, kind: Attention, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return the kept keys and values with the fresh ones written in, and the mask for all of them."""
        old_key, old_value = self._old[len(self.kept) : len(self.kept) + 2]
        text = key.shape[2] - self._index.shape[1]
        image = old_key.shape[2] - text
        index = self._index
        if text:
            offset, first = (text, 0) if kind == "text-first" else (0, image)
            whole = torch.arange(first, first + text, device=index.device).expand(len(index), -1)
            parts = [whole, index + offset] if kind == "text-first" else [index, whole]
            index = torch.cat(parts, dim=1)
        wide = index[:, None, :, None].expand_as(key)
        fresh = old_key.scatter(2, wide, key), old_value.scatter(2, wide, value)
        return *fresh, _widened(mask, key.shape[2], text, image, kind)


def _widened(mask: Tensor | None, fresh: int, text: int, image: int, kind: Attention) -> Tensor | None:
    """A mask over the fresh keys, made into one over all keys; all image keys are alike to it."""
    if mask is None or mask.shape[-1] != fresh or fresh == text + image:
        return mask
    if kind == "text-first":
        one = mask[..., text : text + 1]
        return torch.cat([mask[..., :text], one.expand(*mask.shape[:-1], image)], dim=-1)
    one = mask[..., :1]
    return torch.cat([one.expand(*mask.shape[:-1], image), mask[..., fresh - text :]], dim=-1)
