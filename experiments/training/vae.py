"""Train the small AutoencoderKL of `dit-digits`: 32x32 pictures <-> 16x16 latents of one channel.

python -m experiments.training.vae --out runs/train/vae
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from experiments.training.digits import IMAGE_SIZE, training_images

log = logging.getLogger("vae")
KL_WEIGHT = 1e-4  # keeps the latents' scale in hand; larger blurs the strokes


def build() -> AutoencoderKL:
    """Return the untrained autoencoder."""
    return AutoencoderKL(
        in_channels=1,
        out_channels=1,
        down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
        up_block_types=("UpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        latent_channels=1,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )


def train(steps: int, batch: int, seed: int) -> AutoencoderKL:
    """Fit the autoencoder and set its scaling factor to 1 / std of the latents."""
    torch.manual_seed(seed)
    images, _ = training_images()
    vae = build().train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        x = images[torch.randint(len(images), (batch,))]
        # small shifts and gains, so that latents between the training pictures decode well too
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        x = torch.roll(x, (dy, dx), (2, 3))
        posterior = vae.encode(x).latent_dist
        recon = vae.decode(posterior.sample()).sample
        loss = F.mse_loss(recon, x) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            log.info("step %d loss %.5f", step, loss.item())
    vae.eval()
    with torch.no_grad():
        latents = vae.encode(images).latent_dist.mean
        recon = vae.decode(latents).sample.clamp(-1, 1)
    mse = F.mse_loss(recon / 2, images / 2)
    log.info("reconstruction PSNR %.2f dB, latent std %.4f", -10 * mse.log10(), latents.std())
    vae.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 6))
    return vae


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    train(args.steps, args.batch, args.seed).save_pretrained(args.out)


if __name__ == "__main__":
    main()
