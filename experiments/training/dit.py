"""Train the DiT of `dit-digits` on the latents of its autoencoder; checkpoints, and resumes.

python -m experiments.training.dit --vae runs/train/vae --out runs/train/dit
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

from experiments.training.checkpoint import Stateful, load, save
from experiments.training.digits import NULL_CLASS, training_images

log = logging.getLogger("dit")
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
LABEL_DROPOUT = 0.1
EMA_DECAY = 0.997
CHECKPOINT_SECONDS = 300


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
    start = load(out / "checkpoint.pt", state)
    last_save = begin = time.monotonic()
    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        rows = torch.randint(len(data), (batch,))
        x, y = data[rows], labels[rows].clone()
        y[torch.rand(batch) < LABEL_DROPOUT] = NULL_CLASS
        t = torch.randint(noise_schedule.config.num_train_timesteps, (batch,))
        noise = torch.randn_like(x)
        noisy = noise_schedule.add_noise(x, noise, t)
        loss = F.mse_loss(model(noisy, timestep=t, class_labels=y).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), 1 - decay)
        if step % 20 == 0 or step == steps - 1:
            rate = (step - start + 1) / (time.monotonic() - begin)
            log.info("step %d loss %.4f %.2f step/s", step, loss.item(), rate)
        if time.monotonic() - last_save > CHECKPOINT_SECONDS or step == steps - 1:
            save(out / "checkpoint.pt", step + 1, state)
            ema.save_pretrained(out / "ema")
            last_save = time.monotonic()
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
