"""Train the small AutoencoderKLHunyuanVideo of `hunyuan-digits`: four frames of 4x4 pixels in eight channels.

python -m experiments.training.video_vae --out runs/train/video-vae
"""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLHunyuanVideo

from experiments.training.checkpoint import load, save
from experiments.training.clips import Clips

log = logging.getLogger("video-vae")
KL_WEIGHT = 1e-4
CHECKPOINT_SECONDS = 300


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
    vae = build().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    parts = {"model": vae, "optimizer": optimizer, "schedule": schedule}
    start = load(out / "checkpoint.pt", parts)
    last_save = begin = time.monotonic()
    for step in range(start, steps):
        x, _ = clips.batch(batch)
        posterior = vae.encode(x).latent_dist
        recon = vae.decode(posterior.sample()).sample
        loss = F.mse_loss(recon, x) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            rate = (step - start + 1) / (time.monotonic() - begin)
            log.info("step %d loss %.5f %.2f step/s", step, loss.item(), rate)
        if time.monotonic() - last_save > CHECKPOINT_SECONDS:
            save(out / "checkpoint.pt", step + 1, parts)
            last_save = time.monotonic()
    vae.eval()
    with torch.no_grad():
        x, _ = clips.batch(256)
        latents = vae.encode(x).latent_dist.mean
        recon = vae.decode(latents).sample.clamp(-1, 1)
    mse = F.mse_loss(recon / 2, x / 2)
    log.info("reconstruction PSNR %.2f dB, latent std %.4f", -10 * mse.log10(), latents.std())
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
