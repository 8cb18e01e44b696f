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

import numpy as np
import torch
from diffusers import DiTPipeline
from PIL import Image
from sklearn.svm import SVC

from autotune.scoring.nets.digits import DigitsClassifier
from experiments.training.digits import NUM_CLASSES, plain_digits, to_plain, training_images

FIRST_SEED = 10_000_000  # far from every seed used while training
BATCH = 50
SHOWN = 10


def draw(pipe: DiTPipeline, labels: list[int], first_seed: int, guidance: float, steps: int) -> torch.Tensor:
    """Draw one picture a label. Shape [n, 1, 32, 32] in [0, 1]."""
    pictures = []
    for start in range(0, len(labels), BATCH):
        part = labels[start : start + BATCH]
        seeds = range(first_seed + start, first_seed + start + len(part))
        result = pipe(
            class_labels=part,
            guidance_scale=guidance,
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pt",
        )
        pictures.append(result.images.float())
    return torch.cat(pictures)


def grid(images: torch.Tensor, columns: int, scale: int = 2) -> Image.Image:
    """Tile pictures [n, 1, h, w] row by row."""
    rows = [torch.cat(list(images[i : i + columns]), dim=-1) for i in range(0, len(images), columns)]
    tiled = (torch.cat(rows, dim=-2)[0] * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(tiled)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def nearest(images: torch.Tensor, training: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distance (root mean square, 0 to 1) and index of the nearest training picture of each image."""
    a, b = images.flatten(1), training.flatten(1)
    distance = torch.cdist(a, b) / a.shape[1] ** 0.5
    least = distance.min(1)
    return least.values, least.indices


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("experiments/models/dit-digits"))
    parser.add_argument("--net", type=Path, default=Path("experiments/models/digits-classifier"))
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--features", type=int, default=0, help="also store features of so many samples")
    parser.add_argument("--stats", type=Path, default=Path("experiments/models/dit-digits-stats.npz"))
    args = parser.parse_args()
    pipe = DiTPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    net = DigitsClassifier.load(args.net)
    start = time.monotonic()
    labels = [i % NUM_CLASSES for i in range(args.samples)]
    images = draw(pipe, labels, FIRST_SEED, args.guidance, args.steps)
    truth = torch.tensor(labels)
    with torch.no_grad():
        by_net = (net(images).logits.argmax(1) == truth).float().mean().item()
    plain, plain_labels = plain_digits()
    svm = SVC(gamma=0.001 * 256).fit(plain.flatten(1).numpy(), plain_labels.numpy())
    by_svm = float((svm.predict(to_plain(images).numpy()) == truth.numpy()).mean())
    training, training_labels = training_images()
    training = training / 2 + 0.5
    distance, index = nearest(images, training)
    among = torch.cdist(training.flatten(1), training.flatten(1)) / 32
    among.fill_diagonal_(torch.inf)
    numbers = {
        "samples": args.samples,
        "first_seed": FIRST_SEED,
        "guidance_scale": args.guidance,
        "num_inference_steps": args.steps,
        "recognised_by_classifier": by_net,
        "recognised_by_svm": by_svm,
        "nearest_training_rms": {"median": distance.median().item(), "min": distance.min().item()},
        "nearest_among_training_rms": {"median": among.min(1).values.median().item()},
        "diversity": diversity(images, truth),
        "diversity_training": diversity(training, training_labels),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(numbers))
    (args.model / "card.json").write_text(json.dumps(numbers, indent=2) + "\n")
    grid(images[: SHOWN * 5], SHOWN).save(args.model / "samples.png")
    pairs = torch.stack([images[:SHOWN], training[index[:SHOWN]]]).flatten(0, 1)
    grid(pairs, SHOWN).save(args.model / "nearest.png")
    if args.features:
        store_features(pipe, net, images, args)


def diversity(images: torch.Tensor, labels: torch.Tensor) -> float:
    """Mean root-mean-square distance between two pictures of the same class."""
    totals = []
    for label in range(NUM_CLASSES):
        rows = images[labels == label].flatten(1)
        apart = torch.pdist(rows) / rows.shape[1] ** 0.5
        totals.append(apart.mean().item())
    return float(np.mean(totals))


def store_features(
    pipe: DiTPipeline, net: DigitsClassifier, images: torch.Tensor, args: argparse.Namespace
) -> None:
    """Store features of uncached samples, the measured ones first; fp16, [n, 64]."""
    parts = [features_of(net, images)]
    for start in range(len(images), args.features, BATCH):
        labels = [i % NUM_CLASSES for i in range(start, min(start + BATCH, args.features))]
        more = draw(pipe, labels, FIRST_SEED + start, args.guidance, args.steps)
        parts.append(features_of(net, more))
    features = np.concatenate(parts)[: args.features]
    np.savez_compressed(args.stats, features=features.astype(np.float16), first_seed=FIRST_SEED)
    print(json.dumps({"features": list(features.shape), "file": str(args.stats)}))


def features_of(net: DigitsClassifier, images: torch.Tensor) -> np.ndarray:
    """Return the network's features, [n, 64]."""
    with torch.no_grad():
        features: np.ndarray = net(images).features.numpy()
    return features


if __name__ == "__main__":
    main()
