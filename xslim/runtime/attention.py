"""Keys and values of the whole sequence for a token refresh.

One mechanism for every family: a `TorchFunctionMode`, entered around a single block call, that sees
`scaled_dot_product_attention`. It is thread-local and patches nothing. It sees PyTorch's own
attention only; other backends keep no keys and values, and token refreshes then run full.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

KeyValue = tuple[Tensor, Tensor]


class KeepKeysValues(TorchFunctionMode):
    """Notes the keys and values of one attention call, by its index in the block.

    Attributes:
        kept: (keys, values), each [rows, heads, tokens, head dim]; None when the call was not seen.
    """

    def __init__(self, call: int) -> None:
        super().__init__()
        self._wanted = call
        self._seen = 0
        self.kept: KeyValue | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            if self._seen == self._wanted:
                query, key, value = (*args, *(kwargs[n] for n in ("query", "key", "value")[len(args) :]))[:3]
                key, value = self.attend(key, value)
                self.kept = (key, value)
                self._seen += 1
                rest = {k: v for k, v in kwargs.items() if k not in ("query", "key", "value")}
                return func(query, key, value, *args[3:], **rest)
            self._seen += 1
        return func(*args, **kwargs)

    def attend(self, key: Tensor, value: Tensor) -> KeyValue:
        """Return the keys and values that the call attends to."""
        return key, value


class RefreshKeysValues(KeepKeysValues):
    """Lets the chosen tokens attend to the whole sequence: fresh entries are written into the kept ones."""

    def __init__(self, call: int, kept: KeyValue, index: Tensor) -> None:
        super().__init__(call)
        self._old = kept
        self._index = index

    def attend(self, key: Tensor, value: Tensor) -> KeyValue:
        """Return the kept keys and values with the fresh ones written in."""
        index = self._index[:, None, :, None].expand_as(key)
        old_key, old_value = self._old
        return old_key.scatter(2, index, key), old_value.scatter(2, index, value)
