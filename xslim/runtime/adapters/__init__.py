"""One file a model family, one line here."""

from __future__ import annotations

from xslim._registry import Registry
from xslim.errors import UnsupportedModelError
from xslim.runtime.adapters.base import BlockAdapter, Stack
from xslim.runtime.adapters.dit import DIT
from xslim.runtime.adapters.flux import FLUX
from xslim.runtime.adapters.hunyuan_video import HUNYUAN_VIDEO

ADAPTERS: Registry[BlockAdapter] = Registry(
    "transformer class",
    {adapter.transformer: adapter for adapter in (DIT, FLUX, HUNYUAN_VIDEO)},
    UnsupportedModelError,
)

__all__ = ["ADAPTERS", "BlockAdapter", "Stack"]
