"""Tiny seeded diffusers models, one entry for every adapter, and a sampler without a scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel
from torch import Tensor, nn

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


@dataclass(frozen=True)
class Tiny:
    """How to build and call the tiny model of one adapter.

    Attributes:
        build: returns the seeded model.
        latent: returns the starting noise of a batch, [batch, ...].
        call: (model, latent, time from 1 down to 0) -> output, shaped as the latent.
        attentions: submodule of each block that runs exactly when the block runs.
    """

    build: Callable[[], nn.Module]
    latent: Callable[[int, torch.Generator], Tensor]
    call: Callable[[nn.Module, Tensor, float], Tensor]
    attentions: Callable[[nn.Module], list[nn.Module]]


TINY = {
    "DiTTransformer2DModel": Tiny(
        build=dit,
        latent=lambda batch, generator: torch.randn(batch, 1, SIZE, SIZE, generator=generator),
        call=call_dit,
        attentions=lambda model: [block.attn1 for block in model.transformer_blocks],
    ),
}


def noise(tiny: Tiny, batch: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Starting noise; row i depends on seed + i only."""
    rows = [tiny.latent(1, torch.Generator().manual_seed(seed + i)) for i in range(batch)]
    return torch.cat(rows).to(dtype)


@torch.no_grad()
def sample(
    tiny: Tiny,
    model: nn.Module,
    steps: int,
    latent: Tensor,
    before: Callable[[int, Tensor], Tensor] = lambda step, x: x,
) -> Tensor:
    """A plain Euler loop; `before` may change the latent that enters a step. Returns the last latent."""
    x = latent
    for step in range(steps):
        x = before(step, x)
        x = x - tiny.call(model, x, 1 - step / steps) / steps
    return x
