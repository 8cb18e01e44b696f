"""Train the digit classifier whose features serve as the metrics' network.

    python -m experiments.training.classifier --out experiments/models/digits-classifier

A fifth of the digits is held out and only measured on at the end.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
import torch.nn.functional as F

from autotune.scoring.nets.digits import DigitsClassifier
from experiments.training.digits import training_images

log = logging.getLogger("classifier")


def augment(images: torch.Tensor) -> torch.Tensor:
    """Rotate, scale, shift and add noise, one affine map per picture."""
    n = len(images)
    angle = (torch.rand(n) - 0.5) * 0.5
    scale = 1 + (torch.rand(n) - 0.5) * 0.3
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = scale * angle.cos(), -angle.sin()
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), scale * angle.cos()
    theta[:, :, 2] = (torch.rand(n, 2) - 0.5) * 0.25
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return (moved + torch.randn_like(moved) * torch.rand(n, 1, 1, 1) * 0.1).clamp(0, 1)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.manual_seed(args.seed)
    images, labels = training_images()
    images = images / 2 + 0.5
    order = torch.randperm(len(images))
    held, used = order[:360], order[360:]
    model = DigitsClassifier().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=args.steps)
    for step in range(args.steps):
        rows = used[torch.randint(len(used), (128,))]
        loss = F.cross_entropy(model(augment(images[rows])).logits, labels[rows], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            log.info("step %d loss %.4f", step, loss.item())
    model.eval()
    with torch.no_grad():
        right = (model(images[held]).logits.argmax(1) == labels[held]).float().mean()
    log.info("held-out accuracy %.4f of %d", right, len(held))
    model.save(args.out)


if __name__ == "__main__":
    main()
