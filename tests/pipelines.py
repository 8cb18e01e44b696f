"""Tiny pipelines around the tiny FLUX: text to image, image to image, inpainting, editing."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline
from torch import Tensor

from tests.tiny.flux import flux

SIDE = 8  # 16 tokens

P = TypeVar("P", bound=DiffusionPipeline)


def autoencoder() -> AutoencoderKL:
    """One latent channel, no downscaling."""
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(4,), layers_per_block=1, latent_channels=1,
        norm_num_groups=2, sample_size=SIDE, mid_block_add_attention=False, shift_factor=0.0,
    ).eval()  # fmt: skip


def flux_pipeline(
    kind: type[P] = FluxPipeline, seed: int = 0, scheduler: object | None = None, **changes: object
) -> P:
    """A FLUX pipeline of any kind, without text encoders."""
    pipe = kind(
        transformer=flux(seed, **changes),
        vae=autoencoder(),
        scheduler=scheduler or FlowMatchEulerDiscreteScheduler(),
        text_encoder=None,
        text_encoder_2=None,
        tokenizer=None,
        tokenizer_2=None,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def embeddings(seed: int, tokens: int = 4, batch: int = 1) -> tuple[Tensor, Tensor]:
    """Prompt embeddings [batch, tokens, 24] and pooled ones [batch, 20]."""
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, tokens, 24, generator=generator),
        torch.randn(batch, 20, generator=generator),
    )


def draw(
    pipe: DiffusionPipeline, steps: int = 8, seed: int = 0, prompt: int = 1, batch: int = 1, **kwargs: Any
) -> Tensor:
    """Latents [batch, tokens, 4] of one request."""
    embeds, pooled = embeddings(prompt, batch=batch)
    dtype = pipe.transformer.dtype
    return pipe(
        **{"height": SIDE, "width": SIDE, **kwargs},
        prompt_embeds=embeds.to(dtype),
        pooled_prompt_embeds=pooled.to(dtype),
        num_inference_steps=steps,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
        output_type="latent",
    ).images


def negative(prompt: int = 2, tokens: int = 4, batch: int = 1) -> dict[str, Any]:
    """Arguments of true guidance, in two calls a step."""
    embeds, pooled = embeddings(prompt, tokens, batch)
    return {
        "negative_prompt_embeds": embeds,
        "negative_pooled_prompt_embeds": pooled,
        "true_cfg_scale": 3.0,
    }


def picture(seed: int = 0) -> Tensor:
    """A picture [1, 3, 8, 8] in 0..1."""
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
