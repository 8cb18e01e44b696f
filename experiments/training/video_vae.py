"""Train the small AutoencoderKLHunyuanVideo of `hunyuan-digits`: four frames of 4x4 pixels in eight channels.

python -m experiments.training.video_vae --out runs/train/video-vae
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from diffusers import AutoencoderKLHunyuanVideo

from experiments.training.autoencoder import fit, latents_of
from experiments.training.clips import Clips

log = logging.getLogger("video-vae")
LEARNING_RATE = 4e-3


def build() -> AutoencoderKLHunyuanVideo:
    """Return the untrained autoencoder: 4x in time, 4x in height and width."""
    return AutoencoderKLHunyuanVideo(
        in_channels=1,
        out_channels=1,
        latent_channels=8,
        down_block_types=("HunyuanVideoDownBlock3D",) * 3,
        up_block_types=("HunyuanVideoUpBlock3D",) * 3,
        block_out_channels=(8, 24, 32),
        layers_per_block=1,
        norm_num_groups=4,
        spatial_compression_ratio=4,
        temporal_compression_ratio=4,
        mid_block_add_attention=False,
    )


def train(out: Path, steps: int, batch: int, seed: int) -> AutoencoderKLHunyuanVideo:
    """Fit the autoencoder, resuming from `out/checkpoint.pt`, and set its scaling factor."""
    torch.manual_seed(seed)
    clips = Clips()
    vae = build()
    fit(vae, lambda: clips.batch(batch)[0], out, steps, LEARNING_RATE, log)
    latents = latents_of(vae, clips.batch(256)[0], log)
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 6))
    return vae


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    train(args.out, args.steps, args.batch, args.seed).save_pretrained(args.out)


if __name__ == "__main__":
    main()
