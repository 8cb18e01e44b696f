"""Transformers of real geometry with random weights, and small ones of the same build for a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, FluxTransformer2DModel, HunyuanVideoTransformer3DModel
from torch import Tensor, nn


@dataclass(frozen=True)
class Geometry:
    """One model and one request.

    Attributes:
        build: makes the model.
        latent: shape of the latent of one request.
        arguments: (latent, time from 1 down to 0) -> arguments of a call.
        steps: denoising steps.
        dtype: of weights and activations.
        author: key of the published schedules, or None.
    """

    build: Callable[[], nn.Module]
    latent: tuple[int, ...]
    arguments: Callable[[Tensor, float], dict[str, Any]]
    steps: int
    dtype: torch.dtype
    author: str | None


def _same(like: Tensor, *shape: int) -> Tensor:
    """Random values, the same at every call."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, generator=generator).to(like)


def _filled(like: Tensor, value: float) -> Tensor:
    return torch.full((like.shape[0],), value, device=like.device, dtype=like.dtype)


def _flux(side: int, text: int, width: int) -> Callable[[Tensor, float], dict[str, Any]]:
    def arguments(latent: Tensor, time: float) -> dict[str, Any]:
        ids = torch.zeros(side, side, 3, device=latent.device)
        ids[..., 1], ids[..., 2] = torch.arange(side)[:, None], torch.arange(side)[None]
        return {
            "encoder_hidden_states": _same(latent, 1, text, width),
            "pooled_projections": _same(latent, 1, 768),
            "timestep": _filled(latent, time),
            "guidance": _filled(latent, 3.5),
            "img_ids": ids.reshape(-1, 3),
            "txt_ids": torch.zeros(text, 3, device=latent.device),
        }

    return arguments


def _hunyuan(text: int, width: int) -> Callable[[Tensor, float], dict[str, Any]]:
    def arguments(latent: Tensor, time: float) -> dict[str, Any]:
        return {
            "encoder_hidden_states": _same(latent, 1, text, width),
            "encoder_attention_mask": torch.ones(1, text, device=latent.device),
            "pooled_projections": _same(latent, 1, 768),
            "timestep": _filled(latent, 1000 * time),
            "guidance": _filled(latent, 6000.0),
        }

    return arguments


def _dit(latent: Tensor, time: float) -> dict[str, Any]:
    rows = latent.shape[0]
    return {
        "timestep": torch.full((rows,), int(1000 * time) - 1, device=latent.device),
        "class_labels": torch.arange(rows, device=latent.device),
    }


_HUNYUAN = {"in_channels": 16, "out_channels": 16, "guidance_embeds": True, "pooled_projection_dim": 768}
GEOMETRIES = {
    # FLUX.1-dev at 1024x1024: 19 + 38 blocks, 4096 image and 512 text tokens
    ("flux", "full"): Geometry(
        build=lambda: FluxTransformer2DModel(guidance_embeds=True),
        latent=(1, 4096, 64),
        arguments=_flux(64, 512, 4096),
        steps=50,
        dtype=torch.bfloat16,
        author="flux.1-dev",
    ),
    ("flux", "small"): Geometry(
        build=lambda: FluxTransformer2DModel(
            num_layers=6,
            num_single_layers=6,
            num_attention_heads=3,
            attention_head_dim=64,
            axes_dims_rope=(16, 24, 24),
            joint_attention_dim=128,
            guidance_embeds=True,
        ),
        latent=(1, 256, 64),
        arguments=_flux(16, 32, 128),
        steps=50,
        dtype=torch.float32,
        author="flux.1-dev",
    ),
    # HunyuanVideo at 480x832, 33 frames: 20 + 40 blocks, 14040 image and 256 text tokens
    ("hunyuanvideo", "full"): Geometry(
        build=lambda: HunyuanVideoTransformer3DModel(**_HUNYUAN),
        latent=(1, 16, 9, 60, 104),
        arguments=_hunyuan(256, 4096),
        steps=10,
        dtype=torch.bfloat16,
        author="hunyuanvideo",
    ),
    ("hunyuanvideo", "small"): Geometry(
        build=lambda: HunyuanVideoTransformer3DModel(
            **_HUNYUAN,
            num_layers=6,
            num_single_layers=6,
            num_attention_heads=3,
            attention_head_dim=64,
            rope_axes_dim=(8, 28, 28),
            text_embed_dim=128,
        ),
        latent=(1, 16, 3, 16, 16),
        arguments=_hunyuan(32, 128),
        steps=50,
        dtype=torch.float32,
        author="hunyuanvideo",
    ),
    # DiT-XL/2 at 256x256: 28 blocks, 256 tokens, guidance in one batch
    ("dit", "full"): Geometry(
        build=lambda: DiTTransformer2DModel(num_attention_heads=16, attention_head_dim=72, num_layers=28),
        latent=(16, 4, 32, 32),
        arguments=_dit,
        steps=50,
        dtype=torch.float16,
        author=None,
    ),
    ("dit", "small"): Geometry(
        build=lambda: DiTTransformer2DModel(
            num_attention_heads=3, attention_head_dim=64, num_layers=12, sample_size=32
        ),
        latent=(2, 4, 32, 32),
        arguments=_dit,
        steps=50,
        dtype=torch.float32,
        author=None,
    ),
}
