"""How the autoencoders of pictures and of clips are trained: they share loss, schedule and scaling."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.training.run import Run, descend

KL_WEIGHT = 1e-4  # keeps the latents' scale in hand; larger blurs the strokes
LOG_EVERY = 100


def fit(
    vae: Any, batch: Callable[[], Tensor], out: Path, steps: int, learning_rate: float, log: logging.Logger
) -> None:
    """Fit an autoencoder, resuming from `out/checkpoint.pt`.

    Args:
        vae: of diffusers.
        batch: gives pictures or clips in [-1, 1].
        out: folder of the run.
        steps: in all.
        learning_rate: at the peak of one cycle.
        log: where the run tells how far it is.
    """
    vae.train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=learning_rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    parts = {"model": vae, "optimizer": optimizer, "schedule": schedule}
    run = Run(out / "checkpoint.pt", parts, steps, log, LOG_EVERY)
    for step in run:
        x = batch()
        posterior = vae.encode(x).latent_dist
        recon = vae.decode(posterior.sample()).sample
        loss = F.mse_loss(recon, x) + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()
        descend(loss, vae.parameters(), optimizer)
        schedule.step()
        run.after(step, loss)
    vae.eval()


@torch.no_grad()
def latents_of(vae: Any, x: Tensor, log: logging.Logger) -> Tensor:
    """Return the latents of pictures or clips in [-1, 1]; tell how well they are decoded."""
    latents: Tensor = vae.encode(x).latent_dist.mean
    mse = F.mse_loss(vae.decode(latents).sample.clamp(-1, 1) / 2, x / 2)
    log.info("reconstruction PSNR %.2f dB, latent std %.4f", -10 * mse.log10(), latents.std())
    return latents
