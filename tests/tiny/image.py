"""Tiny image models with streams of text and image: width 32, 16 image tokens, few text tokens."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from diffusers import (
    CogView4Transformer2DModel,
    HunyuanImageTransformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from torch import Tensor, nn

from tests.tiny.core import Tiny, gaussian, loud, mask, text_like, times

HEADS: dict[str, object] = {"num_attention_heads": 2, "attention_head_dim": 16}


def sd3(seed: int = 0, **changes: object) -> SD3Transformer2DModel:
    """An SD3.5 of 3 blocks, two of them with a second attention."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "sample_size": 8,
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "joint_attention_dim": 16,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 8,
        "pos_embed_max_size": 8,
        "dual_attention_layers": (0, 1),
        "qk_norm": "rms_norm",
    }
    return loud(SD3Transformer2DModel(**HEADS, **{**config, **changes}))


def call_sd3(model: nn.Module, latent: Tensor, time: float, skip_layers: list[int] | None = None) -> Tensor:
    return model(
        hidden_states=latent,
        encoder_hidden_states=text_like(latent, 5, 16),
        pooled_projections=text_like(latent, 1, 8)[:, 0],
        timestep=times(latent, time, 1000),
        skip_layers=skip_layers,
        return_dict=False,
    )[0]


def qwen_image(seed: int = 0, **changes: object) -> QwenImageTransformer2DModel:
    """A Qwen-Image of 3 blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "in_channels": 16,
        "out_channels": 4,
        "num_layers": 3,
        "joint_attention_dim": 16,
        "axes_dims_rope": (4, 6, 6),
    }
    return loud(QwenImageTransformer2DModel(**HEADS, **{**config, **changes}))


def call_qwen_image(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    rows = len(latent)
    edit = model.config.zero_cond_t  # then half of the tokens are a picture to edit
    return model(
        hidden_states=latent,
        encoder_hidden_states=text_like(latent, 5, 16),
        encoder_hidden_states_mask=mask(rows, 5, torch.long),
        timestep=times(latent, time),
        img_shapes=[[(1, 2, 4), (1, 2, 4)] if edit else [(1, 4, 4)]] * rows,
        return_dict=False,
    )[0]


def cogview4(seed: int = 0, **changes: object) -> CogView4Transformer2DModel:
    """A CogView4 of 3 blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "patch_size": 2,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "text_embed_dim": 16,
        "time_embed_dim": 16,
        "condition_dim": 4,
        "sample_size": 8,
        "rope_axes_dim": (16, 16),
    }
    return loud(CogView4Transformer2DModel(**HEADS, **{**config, **changes}))


def call_cogview4(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    rows = len(latent)
    size = torch.full((rows, 2), 8.0)
    return model(
        hidden_states=latent,
        encoder_hidden_states=text_like(latent, 5, 16),
        timestep=times(latent, time, 1000),
        original_size=size,
        target_size=size,
        crop_coords=torch.zeros(rows, 2),
        attention_mask=mask(rows, 5),
        return_dict=False,
    )[0]


def hunyuan_image(seed: int = 0, **changes: object) -> HunyuanImageTransformer2DModel:
    """A HunyuanImage of 2 double and 2 single blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "num_refiner_layers": 1,
        "text_embed_dim": 16,
        "rope_axes_dim": (8, 8),
    }
    return loud(HunyuanImageTransformer2DModel(**HEADS, **{**config, **changes}))


def call_hunyuan_image(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    rows = len(latent)
    glyphs = model.config.text_embed_2_dim is not None  # a second text, for what to write in the picture
    return model(
        hidden_states=latent,
        timestep=times(latent, time, 1000),
        encoder_hidden_states=text_like(latent, 5, 16),
        encoder_attention_mask=mask(rows, 5, torch.long),
        encoder_hidden_states_2=text_like(latent, 4, 8) if glyphs else None,
        encoder_attention_mask_2=mask(rows, 4, torch.long) if glyphs else None,
        return_dict=False,
    )[0]


def z_image(seed: int = 0, **changes: object) -> ZImageTransformer2DModel:
    """A Z-Image of 3 layers: 16 image tokens and a caption, each padded to 32."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "in_channels": 4,
        "dim": 32,
        "n_layers": 3,
        "n_refiner_layers": 1,
        "n_heads": 2,
        "n_kv_heads": 2,
        "cap_feat_dim": 16,
        "axes_dims": [4, 6, 6],
        "axes_lens": [128, 32, 32],
    }
    return loud(ZImageTransformer2DModel(**{**config, **changes}))


def call_z_image(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    captions = [words[: 5 + i % 2] for i, words in enumerate(text_like(latent, 6, 16))]
    return -torch.stack(model(list(latent), times(latent, 1 - time), captions, return_dict=False)[0])


TINIES = (
    Tiny("SD3Transformer2DModel", sd3, gaussian(4, 8, 8), call_sd3, 16),
    Tiny("QwenImageTransformer2DModel", qwen_image, gaussian(16, 16), call_qwen_image, 16),
    Tiny("CogView4Transformer2DModel", cogview4, gaussian(4, 8, 8), call_cogview4, 16, "attn1"),
    Tiny("HunyuanImageTransformer2DModel", hunyuan_image, gaussian(4, 4, 4), call_hunyuan_image, 16),
    Tiny("ZImageTransformer2DModel", z_image, gaussian(4, 1, 8, 8), call_z_image, 64, "attention"),
)

VARIANTS = (
    replace(TINIES[1], build=partial(qwen_image, zero_cond_t=True), variant="edit"),
    replace(TINIES[0], build=partial(sd3, dual_attention_layers=(), qk_norm=None), variant="3.0"),
    replace(TINIES[3], build=partial(hunyuan_image, text_embed_2_dim=8), variant="glyphs"),
)
