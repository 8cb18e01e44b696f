"""Tiny video models: width 32, 16 image tokens (HunyuanVideo 32), 5 text tokens."""

from __future__ import annotations

import warnings
from dataclasses import replace

import torch
from diffusers import (
    CogVideoXTransformer3DModel,
    HunyuanVideoTransformer3DModel,
    LTXVideoTransformer3DModel,
    MochiTransformer3DModel,
    WanTransformer3DModel,
)
from torch import Tensor, nn

from tests.tiny.core import Tiny, gaussian, loud, mask, text_like, times

HEADS: dict[str, object] = {"num_attention_heads": 2, "attention_head_dim": 16}
CHANNELS: dict[str, object] = {"in_channels": 4, "out_channels": 4}


def hunyuan_video(seed: int = 0, **changes: object) -> HunyuanVideoTransformer3DModel:
    """A HunyuanVideo of 2 double and 3 single blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "num_layers": 2,
        "num_single_layers": 3,
        "num_refiner_layers": 1,
        "patch_size": 1,
        "patch_size_t": 1,
        "guidance_embeds": True,
        "text_embed_dim": 16,
        "pooled_projection_dim": 8,
        "rope_axes_dim": (4, 4, 8),
    }
    return loud(HunyuanVideoTransformer3DModel(**HEADS, **CHANNELS, **{**config, **changes}))


def call_hunyuan_video(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    return model(
        hidden_states=latent,
        timestep=times(latent, time, 1000),
        encoder_hidden_states=text_like(latent, 5, 16),
        encoder_attention_mask=mask(len(latent), 5, torch.float32),
        pooled_projections=text_like(latent, 1, 8)[:, 0],
        guidance=times(latent, 6000.0),
        return_dict=False,
    )[0]


def wan(seed: int = 0, **changes: object) -> WanTransformer3DModel:
    """A Wan of 3 blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "text_dim": 16,
        "freq_dim": 32,
        "ffn_dim": 64,
        "num_layers": 3,
        "rope_max_seq_len": 16,
    }
    return loud(WanTransformer3DModel(**HEADS, **CHANNELS, **{**config, **changes}))


def call_wan(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    return model(latent, times(latent, time, 1000), text_like(latent, 5, 16), return_dict=False)[0]


def call_wan_image_to_video(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    """Every token has a time of its own; those of the first frame are clean."""
    clean = torch.arange(16) >= 8
    timestep = times(latent, time, 1000)[:, None] * clean
    return model(latent, timestep, text_like(latent, 5, 16), return_dict=False)[0]


def ltx_video(seed: int = 0, **changes: object) -> LTXVideoTransformer3DModel:
    """An LTX-Video of 3 blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {"num_layers": 3, "cross_attention_dim": 32, "caption_channels": 16}
    return loud(LTXVideoTransformer3DModel(**HEADS, **CHANNELS, **{**config, **changes}))


def call_ltx_video(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    return _ltx_video(model, latent, times(latent, time, 1000))


def call_ltx_image_to_video(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    """Every token has a time of its own; those of the first frame are clean."""
    return _ltx_video(model, latent, times(latent, time, 1000)[:, None] * (torch.arange(16) >= 8))


def _ltx_video(model: nn.Module, latent: Tensor, timestep: Tensor) -> Tensor:
    return model(
        hidden_states=latent,
        encoder_hidden_states=text_like(latent, 5, 16),
        timestep=timestep,
        encoder_attention_mask=mask(len(latent), 5, torch.float32),
        num_frames=2,
        height=2,
        width=4,
        return_dict=False,
    )[0]


def cogvideox(seed: int = 0, **changes: object) -> CogVideoXTransformer3DModel:
    """A CogVideoX of 3 blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "time_embed_dim": 16,
        "text_embed_dim": 16,
        "num_layers": 3,
        "sample_width": 8,
        "sample_height": 4,
        "sample_frames": 5,
        "max_text_seq_length": 5,
        "use_rotary_positional_embeddings": True,
    }
    return loud(CogVideoXTransformer3DModel(**HEADS, **CHANNELS, **{**config, **changes}))


def call_cogvideox(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    angles = torch.outer(torch.arange(16.0), 1 / torch.arange(1.0, 9.0)).repeat_interleave(2, dim=1)
    return model(
        hidden_states=latent,
        encoder_hidden_states=text_like(latent, 5, 16),
        timestep=times(latent, time, 1000),
        image_rotary_emb=(angles.cos(), angles.sin()),
        return_dict=False,
    )[0]


def mochi(seed: int = 0, **changes: object) -> MochiTransformer3DModel:
    """A Mochi of 3 blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "num_layers": 3,
        "pooled_projection_dim": 16,
        "text_embed_dim": 16,
        "time_embed_dim": 32,
        "max_sequence_length": 5,
    }
    return loud(MochiTransformer3DModel(**HEADS, **CHANNELS, **{**config, **changes}))


def call_mochi(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="In CPU autocast")  # of the rotary tables
        return model(
            hidden_states=latent,
            encoder_hidden_states=text_like(latent, 5, 16),
            timestep=times(latent, 1 - time, 1000),
            encoder_attention_mask=mask(len(latent), 5),
            return_dict=False,
        )[0]


TINIES = (
    Tiny(
        "HunyuanVideoTransformer3DModel", hunyuan_video, gaussian(4, 2, 4, 4), call_hunyuan_video, tokens=32
    ),
    Tiny("WanTransformer3DModel", wan, gaussian(4, 2, 4, 8), call_wan, 16, "attn1"),
    Tiny("LTXVideoTransformer3DModel", ltx_video, gaussian(16, 4), call_ltx_video, 16, "attn1"),
    Tiny("CogVideoXTransformer3DModel", cogvideox, gaussian(2, 4, 4, 8), call_cogvideox, 16, "attn1"),
    Tiny("MochiTransformer3DModel", mochi, gaussian(4, 2, 4, 8), call_mochi, 16, "attn1"),
)

VARIANTS = (
    replace(TINIES[1], call=call_wan_image_to_video, variant="image-to-video"),
    replace(TINIES[2], call=call_ltx_image_to_video, variant="image-to-video"),
)
