"""Whole tiny pipelines with text encoders, as folders that `from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLHunyuanVideo,
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    HunyuanVideoPipeline,
    UniPCMultistepScheduler,
    WanPipeline,
)
from transformers import UMT5Config, UMT5EncoderModel

from experiments.training import text
from tests.tiny.flux import flux
from tests.tiny.video import hunyuan_video, wan

WIDTH = text.WIDTH


def flow_parts(first: tuple[Any, Any], second: tuple[Any, Any]) -> dict[str, Any]:
    """What pipelines of flow matching with two (tokenizer, text encoder) are made of besides."""
    (tokenizer, encoder), (tokenizer_2, encoder_2) = first, second
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(),
        "text_encoder": encoder,
        "text_encoder_2": encoder_2,
        "tokenizer": tokenizer,
        "tokenizer_2": tokenizer_2,
    }


def flux_pipeline() -> FluxPipeline:
    """Pictures whose sides are multiples of 4 pixels, four pixels of each side to a token."""
    torch.manual_seed(0)
    clip, t5 = text.clip_tokenizer(), text.t5_tokenizer()
    transformer = flux(joint_attention_dim=WIDTH, pooled_projection_dim=WIDTH, in_channels=16)
    vae = AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=(4, 4), layers_per_block=1, latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2, sample_size=8, mid_block_add_attention=False, shift_factor=0.0,
    )  # fmt: skip
    readers = (clip, text.clip_encoder(clip)), (t5, text.t5_encoder(t5))
    return FluxPipeline(transformer=transformer, vae=vae, **flow_parts(*readers))


def hunyuan_pipeline() -> HunyuanVideoPipeline:
    """Clips of 4k + 1 frames, sides multiples of 4 pixels."""
    torch.manual_seed(0)
    clip, llama = text.clip_tokenizer(), text.llama_tokenizer()
    transformer = hunyuan_video(text_embed_dim=WIDTH, pooled_projection_dim=WIDTH)
    vae = AutoencoderKLHunyuanVideo(
        in_channels=1, out_channels=1, latent_channels=4, block_out_channels=(4,) * 3, layers_per_block=1,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3, up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        norm_num_groups=2, spatial_compression_ratio=4, mid_block_add_attention=False,
    )  # fmt: skip
    readers = (llama, text.llama_encoder(llama)), (clip, text.clip_encoder(clip))
    return HunyuanVideoPipeline(transformer=transformer, vae=vae, **flow_parts(*readers))


def wan_pipeline(**changes: Any) -> WanPipeline:
    """Clips of 4k + 1 frames, sides multiples of 16 pixels; guidance in two calls a step."""
    torch.manual_seed(0)
    t5 = text.t5_tokenizer()
    encoder = UMT5Config(
        vocab_size=len(t5), d_model=WIDTH, d_kv=16, d_ff=64, num_layers=1, num_heads=4, dropout_rate=0.0
    )
    parts: dict[str, Any] = {
        "transformer": wan(text_dim=WIDTH, patch_size=(1, 2, 2)),
        "vae": AutoencoderKLWan(base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
                                latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=3.0
        ),
    }  # fmt: skip
    return WanPipeline(tokenizer=t5, text_encoder=UMT5EncoderModel(encoder), **{**parts, **changes})


def wan22_pipeline() -> WanPipeline:
    """Wan 2.2: one transformer for the noisy steps, another for the rest."""
    return wan_pipeline(transformer_2=wan(1, text_dim=WIDTH, patch_size=(1, 2, 2)), boundary_ratio=0.8)


PIPELINES = {
    "flux": flux_pipeline,
    "hunyuan": hunyuan_pipeline,
    "wan": wan_pipeline,
    "wan22": wan22_pipeline,
}


def save(pipe: DiffusionPipeline, folder: Path) -> str:
    """Save a pipeline; return the folder as a spec's path."""
    pipe.save_pretrained(folder)
    return str(folder)
