"""Train the DiT of `dit-digits` on the latents of its autoencoder; checkpoints, and resumes.

python -m experiments.training.dit --vae runs/train/vae --out runs/train/dit
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

from experiments.training.checkpoint import Stateful
from experiments.training.digits import NULL_CLASS, training_images
from experiments.training.run import Run, descend, follow

log = logging.getLogger("dit")
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
LABEL_DROPOUT = 0.1
EMA_DECAY = 0.997
LOG_EVERY = 20


def build() -> DiTTransformer2DModel:
    """Return the untrained transformer: 8 layers, width 128, 64 tokens, 3.8 M parameters."""
    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=32,
        in_channels=1,
        out_channels=1,
        num_layers=8,
        sample_size=16,
        patch_size=2,
        norm_num_groups=8,
        attention_bias=True,
        num_embeds_ada_norm=NULL_CLASS,
    )
    for block in model.transformer_blocks:  # adaLN-zero, as in DiT (arXiv 2212.09748)
        torch.nn.init.zeros_(block.norm1.linear.weight)
        torch.nn.init.zeros_(block.norm1.linear.bias)
        # labels are dropped once for all blocks, below, not in every block by itself
        block.norm1.emb.class_embedder.dropout_prob = 0.0
    torch.nn.init.zeros_(model.proj_out_2.weight)
    torch.nn.init.zeros_(model.proj_out_2.bias)
    return model


def scheduler() -> DDIMScheduler:
    """Return the scheduler that the pipeline ships."""
    return DDIMScheduler(beta_schedule="linear", clip_sample=False, set_alpha_to_one=True)


def latents(vae: AutoencoderKL) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scaled latents [1797, 1, 16, 16] and labels [1797]."""
    images, labels = training_images()
    with torch.no_grad():
        encoded = vae.encode(images).latent_dist.mean
    return encoded * vae.config.scaling_factor, labels


def learning_rate(step: int, total: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < WARMUP_STEPS:
        return LEARNING_RATE * (step + 1) / WARMUP_STEPS
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / (total - WARMUP_STEPS)))


def train(vae_dir: Path, out: Path, steps: int, batch: int, seed: int) -> None:
    """Train for `steps` steps in all, resuming from `out/checkpoint.pt` when it is there."""
    data, labels = latents(AutoencoderKL.from_pretrained(vae_dir))
    noise_schedule = scheduler()
    torch.manual_seed(seed)
    model = build().train()
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    state: dict[str, Stateful] = {"model": model, "ema": ema, "optimizer": optimizer}
    run = Run(out / "checkpoint.pt", state, steps, log, LOG_EVERY)
    for step in run:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        rows = torch.randint(len(data), (batch,))
        x, y = data[rows], labels[rows].clone()
        y[torch.rand(batch) < LABEL_DROPOUT] = NULL_CLASS
        t = torch.randint(noise_schedule.config.num_train_timesteps, (batch,))
        noise = torch.randn_like(x)
        noisy = noise_schedule.add_noise(x, noise, t)
        loss = F.mse_loss(model(noisy, timestep=t, class_labels=y).sample, noise)
        descend(loss, model.parameters(), optimizer)
        follow(ema, model, step, EMA_DECAY)
        if run.after(step, loss):
            ema.save_pretrained(out / "ema")
    log.info("done: %d steps", steps)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    train(args.vae, args.out, args.steps, args.batch, args.seed)


if __name__ == "__main__":
    main()
