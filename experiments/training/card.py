"""Measure `dit-digits` and write its model card's numbers and pictures, and the reference features.

python -m experiments.training.card --samples 1000 --features 10000

Draws uncached samples with seeds that no training decision used, and reports: how many the classifier and
an SVM on the plain 8x8 digits recognise, the nearest training neighbours, and a diversity figure.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import DiTPipeline

from experiments.training import quality
from experiments.training.digits import NUM_CLASSES, training_images

BATCH = 50
SHOWN = 10


def draw(pipe: DiTPipeline, labels: list[int], first_seed: int, guidance: float, steps: int) -> torch.Tensor:
    """Draw one picture a label. Shape [n, 1, 32, 32] in [0, 1]."""
    pictures = []
    for start in range(0, len(labels), BATCH):
        part = labels[start : start + BATCH]
        result = pipe(
            class_labels=part,
            guidance_scale=guidance,
            num_inference_steps=steps,
            generator=quality.seeds(first_seed + start, len(part)),
            output_type="pt",
        )
        pictures.append(result.images.float())
    return torch.cat(pictures)


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("experiments/models/dit-digits"))
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--features", type=int, default=0, help="also store features of so many samples")
    parser.add_argument("--stats", type=Path, default=Path("experiments/models/dit-digits-stats.npz"))
    args = parser.parse_args()
    pipe = DiTPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    readers = quality.Readers()
    start = time.monotonic()
    labels = [i % NUM_CLASSES for i in range(args.samples)]
    images = draw(pipe, labels, quality.FIRST_SEED, args.guidance, args.steps)
    training, training_labels = training_images()
    training = training / 2 + 0.5
    numbers = {
        "samples": args.samples,
        "first_seed": quality.FIRST_SEED,
        "guidance_scale": args.guidance,
        "num_inference_steps": args.steps,
        **readers.shares(images, torch.tensor(labels)),
        **quality.memory(images, torch.tensor(labels), training, training_labels),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(numbers))
    (args.model / "card.json").write_text(json.dumps(numbers, indent=2) + "\n")
    quality.grid(images[: SHOWN * 5], SHOWN).save(args.model / "samples.png")
    _, index = quality.nearest(images, training)
    pairs = torch.stack([images[:SHOWN], training[index[:SHOWN]]]).flatten(0, 1)
    quality.grid(pairs, SHOWN).save(args.model / "nearest.png")

    @torch.no_grad()
    def features(first: int) -> torch.Tensor:
        pictures = images[first : first + BATCH]  # the measured ones first
        if len(pictures) < BATCH:
            some = [i % NUM_CLASSES for i in range(first, first + BATCH)]
            pictures = draw(pipe, some, quality.FIRST_SEED + first, args.guidance, args.steps)
        return readers.net(pictures).features

    if args.features:
        quality.store_features(args.stats, args.features, features, BATCH)


if __name__ == "__main__":
    main()
