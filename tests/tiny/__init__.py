"""Tiny seeded diffusers models, one entry for every adapter, and a sampler without a scheduler."""

from __future__ import annotations

from tests.tiny import flux, image, plain, video
from tests.tiny.core import Tiny, noise, sample
from tests.tiny.plain import LAYERS, SIZE, TOKENS, WIDTH, dit, dit_pipeline, generate

_PARTS = (plain, flux, image, video)
TINY = {tiny.transformer: tiny for part in _PARTS for tiny in part.TINIES}
VARIANTS = {tiny.name: tiny for part in (image, video) for tiny in part.VARIANTS}

__all__ = [
    "LAYERS",
    "SIZE",
    "TINY",
    "TOKENS",
    "VARIANTS",
    "WIDTH",
    "Tiny",
    "dit",
    "dit_pipeline",
    "generate",
    "noise",
    "sample",
]
