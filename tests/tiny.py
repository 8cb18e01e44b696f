"""Tiny seeded diffusers models, one entry for every adapter, and a sampler without a scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FluxTransformer2DModel,
    HunyuanVideoTransformer3DModel,
)
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
        tokens: image tokens of a sample.
        attentions: submodule of each block that runs exactly when the block runs.
    """

    build: Callable[[], nn.Module]
    latent: Callable[[int, torch.Generator], Tensor]
    call: Callable[[nn.Module, Tensor, float], Tensor]
    tokens: int
    attentions: Callable[[nn.Module], list[nn.Module]]


def flux(seed: int = 0, **changes: object) -> FluxTransformer2DModel:
    """A FLUX of 3 double and 3 single blocks, 4 + 16 tokens, width 32."""
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


def loud(model: nn.Module) -> nn.Module:
    """Make modulation matter: a freshly initialised one hardly depends on time."""
    for name, parameter in model.named_parameters():
        if ".norm1" in name or ".norm." in name or "_mod." in name or "modulation" in name:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def text(batch: int, tokens: int, width: int) -> Tensor:
    """Conditioning, different for every sample, the same at every call."""
    rows = [torch.randn(tokens, width, generator=torch.Generator().manual_seed(77 + i)) for i in range(batch)]
    return torch.stack(rows)


def call_flux(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    rows, tokens = latent.shape[:2]
    side = int(tokens**0.5)
    ids = torch.zeros(tokens, 3)
    ids[:, 1], ids[:, 2] = torch.arange(tokens) // side, torch.arange(tokens) % side
    return model(
        hidden_states=latent,
        encoder_hidden_states=text(rows, 4, 24).to(latent.dtype),
        pooled_projections=text(rows, 1, 20)[:, 0].to(latent.dtype),
        timestep=torch.full((rows,), time, dtype=latent.dtype),
        img_ids=ids,
        txt_ids=torch.zeros(4, 3),
        guidance=torch.full((rows,), 3.5, dtype=latent.dtype),
        return_dict=False,
    )[0]


def hunyuan_video(seed: int = 0, **changes: object) -> HunyuanVideoTransformer3DModel:
    """A HunyuanVideo of 2 double and 3 single blocks, 32 + 5 tokens, width 32."""
    torch.manual_seed(seed)
    config: dict[str, object] = {
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 2,
        "attention_head_dim": 16,
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
    return loud(HunyuanVideoTransformer3DModel(**{**config, **changes}))


def call_hunyuan_video(model: nn.Module, latent: Tensor, time: float) -> Tensor:
    rows = len(latent)
    mask = torch.ones(rows, 5)
    mask[:, 3:] = 0  # padding
    return model(
        hidden_states=latent,
        timestep=torch.full((rows,), 1000 * time).to(latent.dtype),
        encoder_hidden_states=text(rows, 5, 16).to(latent.dtype),
        encoder_attention_mask=mask,
        pooled_projections=text(rows, 1, 8)[:, 0].to(latent.dtype),
        guidance=torch.full((rows,), 6000.0).to(latent.dtype),
        return_dict=False,
    )[0]


TINY = {
    "FluxTransformer2DModel": Tiny(
        build=flux,
        latent=lambda batch, generator: torch.randn(batch, 16, 4, generator=generator),
        call=call_flux,
        tokens=16,
        attentions=lambda model: [
            block.attn for block in (*model.transformer_blocks, *model.single_transformer_blocks)
        ],
    ),
    "HunyuanVideoTransformer3DModel": Tiny(
        build=hunyuan_video,
        latent=lambda batch, generator: torch.randn(batch, 4, 2, 4, 4, generator=generator),
        call=call_hunyuan_video,
        tokens=32,
        attentions=lambda model: [
            block.attn for block in (*model.transformer_blocks, *model.single_transformer_blocks)
        ],
    ),
    "DiTTransformer2DModel": Tiny(
        build=dit,
        latent=lambda batch, generator: torch.randn(batch, 1, SIZE, SIZE, generator=generator),
        call=call_dit,
        tokens=TOKENS,
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
