"""DiT and its pipeline, for tests that need a whole pipeline; PixArt, whose blocks are alike."""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    PixArtTransformer2DModel,
)
from torch import Tensor, nn

from tests.tiny.core import Tiny, gaussian, loud, mask, text_like, times

LAYERS = 6
WIDTH = 32
TOKENS = 16
SIZE = 8


def dit(seed: int = 0, **changes: object) -> DiTTransformer2DModel:
    """A DiT of 6 layers, 16 tokens, width 32; all weights random, so that timesteps and labels matter."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 1,
        "out_channels": 1,
        "num_layers": LAYERS,
        "sample_size": SIZE,
        "patch_size": 2,
        "norm_num_groups": 4,
        "num_embeds_ada_norm": 1000,
    }
    model = DiTTransformer2DModel(**{**config, **changes})
    for block in model.transformer_blocks:
        nn.init.normal_(block.norm1.linear.weight, std=0.3)
        nn.init.normal_(block.norm1.linear.bias, std=0.3)
    return model.eval()


def dit_pipeline(seed: int = 0, **changes: object) -> DiTPipeline:
    """A DiTPipeline around `dit` with a tiny autoencoder and DDIM."""
    transformer = dit(seed, **changes)
    vae = AutoencoderKL(
        in_channels=1, out_channels=1, block_out_channels=(4,), layers_per_block=1, latent_channels=1,
        norm_num_groups=2, sample_size=SIZE, mid_block_add_attention=False,
    )  # fmt: skip
    scheduler = DDIMScheduler(clip_sample=False)
    pipe = DiTPipeline(transformer=transformer, vae=vae.eval(), scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(
    pipe: DiTPipeline, steps: int = 8, batch: int = 1, seed: int = 0, guidance: float = 1.0
) -> Tensor:
    """Images of one request."""
    return pipe(
        class_labels=list(range(1, batch + 1)),
        num_inference_steps=steps,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(seed + i) for i in range(batch)],
        output_type="pt",
    ).images


def call_dit(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    rows = len(latent)
    timestep = torch.full((rows,), 1000 * time - 1)
    labels = torch.arange(rows) % 10
    return model(latent, timestep=timestep, class_labels=labels).sample


def pixart(seed: int = 0, **changes: object) -> PixArtTransformer2DModel:
    """A PixArt of 3 layers, 16 tokens, width 32, that attends to 5 text tokens with padding."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "num_attention_heads": 2,
        "attention_head_dim": 16,
        "in_channels": 4,
        "out_channels": 4,
        "num_layers": 3,
        "cross_attention_dim": 32,
        "caption_channels": 16,
        "sample_size": SIZE,
        "patch_size": 2,
    }
    return loud(PixArtTransformer2DModel(**{**config, **changes}))


def call_pixart(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    return model(
        latent,
        encoder_hidden_states=text_like(latent, 5, 16),
        timestep=times(latent, time, 1000),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
        encoder_attention_mask=mask(len(latent), 5, torch.float32),
        return_dict=False,
    )[0]


TINIES = (
    Tiny("DiTTransformer2DModel", dit, gaussian(1, SIZE, SIZE), call_dit, TOKENS, "attn1"),
    Tiny("PixArtTransformer2DModel", pixart, gaussian(4, SIZE, SIZE), call_pixart, 16, "attn1"),
)
