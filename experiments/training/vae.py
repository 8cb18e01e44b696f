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
from diffusers import AutoencoderKL

from experiments.training.autoencoder import fit, latents_of
from experiments.training.canvas import Canvases, halved
from experiments.training.digits import training_images

log = logging.getLogger("vae")
LEARNING_RATE = 3e-3
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


def train(pictures: Pictures, out: Path, steps: int, batch: int, seed: int) -> AutoencoderKL:
    """Fit the autoencoder and set the shift and scale that make its latents standard normal."""
    torch.manual_seed(seed)
    vae = build(pictures(1).shape[-1])

    def shifted() -> torch.Tensor:
        """Shift the pictures a little, so that latents between the training pictures decode well too."""
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        return torch.roll(pictures(batch), (dy, dx), (2, 3))

    fit(vae, shifted, out, steps, LEARNING_RATE, log)
    latents = latents_of(vae, pictures(512), log)
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
    train(SOURCES[args.pictures](), args.out, args.steps, args.batch, args.seed).save_pretrained(args.out)


if __name__ == "__main__":
    main()
