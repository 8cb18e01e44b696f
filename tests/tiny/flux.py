"""Tiny FLUX.1 and FLUX.2: width 32, 4 text and 16 image tokens."""

from __future__ import annotations

import torch
from diffusers import Flux2Transformer2DModel, FluxTransformer2DModel
from torch import Tensor, nn

from tests.tiny.core import Tiny, gaussian, loud, text_like, times


def flux(seed: int = 0, **changes: object) -> FluxTransformer2DModel:
    """A FLUX of 3 double and 3 single blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "patch_size": 1,
        "in_channels": 4,
        "num_layers": 3,
        "num_single_layers": 3,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "pooled_projection_dim": 20,
        "guidance_embeds": True,
        "axes_dims_rope": (4, 4, 8),
    }
    return loud(FluxTransformer2DModel(**{**config, **changes}))


def _ids(tokens: int, axes: int) -> Tensor:
    """Positions of the tokens of a square picture."""
    side = int(tokens**0.5)
    ids = torch.zeros(tokens, axes)
    ids[:, 1], ids[:, 2] = torch.arange(tokens) // side, torch.arange(tokens) % side
    return ids


def call_flux(model: nn.Module, latent: Tensor, time: float, words: int = 4) -> Tensor:
    return model(
        hidden_states=latent,
        encoder_hidden_states=text_like(latent, words, 24),
        pooled_projections=text_like(latent, 1, 20)[:, 0],
        timestep=times(latent, time),
        img_ids=_ids(latent.shape[1], 3),
        txt_ids=torch.zeros(words, 3),
        guidance=times(latent, 3.5),
        return_dict=False,
    )[0]


def flux2(seed: int = 0, **changes: object) -> Flux2Transformer2DModel:
    """A FLUX.2 of 2 double and 2 single blocks."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "in_channels": 4,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 16,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "timestep_guidance_channels": 32,
        "axes_dims_rope": (4, 4, 4, 4),
    }
    return loud(Flux2Transformer2DModel(**{**config, **changes}))


def call_flux2(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    return model(
        hidden_states=latent,
        encoder_hidden_states=text_like(latent, 4, 24),
        timestep=times(latent, time),
        img_ids=_ids(latent.shape[1], 4),
        txt_ids=torch.zeros(4, 4),
        guidance=times(latent, 3.5),
        return_dict=False,
    )[0]


TINIES = (
    Tiny("FluxTransformer2DModel", flux, gaussian(16, 4), call_flux, 16),
    Tiny("Flux2Transformer2DModel", flux2, gaussian(16, 4), call_flux2, 16),
)
