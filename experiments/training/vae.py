"""Train the small AutoencoderKL of a digits model: one latent channel at half the side of the picture.

python -m experiments.training.vae --out runs/train/vae
python -m experiments.training.vae --pictures canvas --out runs/train/canvas-vae --steps 2000 --batch 24
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from experiments.training.canvas import Canvases, halved
from experiments.training.digits import training_images

log = logging.getLogger("vae")
KL_WEIGHT = 1e-4  # keeps the latents' scale in hand; larger blurs the strokes
Pictures = Callable[[int], torch.Tensor]  # how many -> pictures [n, 1, h, w] in [-1, 1]


def build(sample_size: int) -> AutoencoderKL:
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
        sample_size=sample_size,
        mid_block_add_attention=False,
    )


def digits() -> Pictures:
    """Pictures of one digit each."""
    images, _ = training_images()
    return lambda count: images[torch.randint(len(images), (count,))]


def canvas() -> Pictures:
    """Scenes on the whole canvas, and at half its side."""
    canvases = Canvases()

    def pictures(count: int) -> torch.Tensor:
        scenes, _ = canvases.batch(count)
        return scenes if torch.rand(()) < 0.75 else halved(scenes)

    return pictures


SOURCES = {"digits": digits, "canvas": canvas}


def train(pictures: Pictures, steps: int, batch: int, seed: int) -> AutoencoderKL:
    """Fit the autoencoder and set the shift and scale that make its latents standard normal."""
    torch.manual_seed(seed)
    vae = build(pictures(1).shape[-1]).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        # small shifts, so that latents between the training pictures decode well too
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        x = torch.roll(pictures(batch), (dy, dx), (2, 3))
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
        x = pictures(512)
        latents = vae.encode(x).latent_dist.mean
        recon = vae.decode(latents).sample.clamp(-1, 1)
    mse = F.mse_loss(recon / 2, x / 2)
    log.info("reconstruction PSNR %.2f dB, latent std %.4f", -10 * mse.log10(), latents.std())
    vae.register_to_config(
        scaling_factor=round(1.0 / latents.std().item(), 6), shift_factor=round(latents.mean().item(), 6)
    )
    return vae


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", choices=sorted(SOURCES), default="digits")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    train(SOURCES[args.pictures](), args.steps, args.batch, args.seed).save_pretrained(args.out)


if __name__ == "__main__":
    main()
