"""One file a model family, one line here."""

from __future__ import annotations

from xslim._registry import Registry
from xslim.errors import UnsupportedModelError
from xslim.runtime.adapters.base import BlockAdapter, ModuleCall, Stack
from xslim.runtime.adapters.dit import DIT

ADAPTERS: Registry[BlockAdapter] = Registry(
    "transformer class",
    {adapter.transformer: adapter for adapter in (DIT,)},
    UnsupportedModelError,
)

__all__ = ["ADAPTERS", "BlockAdapter", "ModuleCall", "Stack"]
