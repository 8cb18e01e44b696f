"""One file a model family, one line here."""

from __future__ import annotations

from xslim._registry import Registry
from xslim.errors import UnsupportedModelError
from xslim.runtime.adapters.base import BlockAdapter, Stack
from xslim.runtime.adapters.cogvideox import COGVIDEOX
from xslim.runtime.adapters.cogview4 import COGVIEW4
from xslim.runtime.adapters.dit import DIT
from xslim.runtime.adapters.flux import FLUX
from xslim.runtime.adapters.flux2 import FLUX2
from xslim.runtime.adapters.hunyuan_image import HUNYUAN_IMAGE
from xslim.runtime.adapters.hunyuan_video import HUNYUAN_VIDEO
from xslim.runtime.adapters.ltx_video import LTX_VIDEO
from xslim.runtime.adapters.mochi import MOCHI
from xslim.runtime.adapters.pixart import PIXART
from xslim.runtime.adapters.qwen_image import QWEN_IMAGE
from xslim.runtime.adapters.sd3 import SD3
from xslim.runtime.adapters.wan import WAN
from xslim.runtime.adapters.z_image import Z_IMAGE

_ALL = (
    COGVIDEOX,
    COGVIEW4,
    DIT,
    FLUX,
    FLUX2,
    HUNYUAN_IMAGE,
    HUNYUAN_VIDEO,
    LTX_VIDEO,
    MOCHI,
    PIXART,
    QWEN_IMAGE,
    SD3,
    WAN,
    Z_IMAGE,
)

ADAPTERS: Registry[BlockAdapter] = Registry(
    "transformer class", {adapter.transformer: adapter for adapter in _ALL}, UnsupportedModelError
)

__all__ = ["ADAPTERS", "BlockAdapter", "Stack"]
