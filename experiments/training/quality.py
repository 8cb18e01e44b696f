"""How good drawn digits are: two classifiers, nearest training neighbours, diversity, contact sheets.

`measure_card` is the command line of every model's card: it draws, measures, and writes `card.json`, the
pictures and the reference features.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from sklearn.svm import SVC
from torch import Tensor

from autotune.scoring.nets.digits import DigitsClassifier
from experiments.training.digits import NUM_CLASSES, plain_digits, to_plain

FIRST_SEED = 10_000_000  # far from every seed used while training
MODELS = Path("experiments/models")
NET = MODELS / "digits-classifier"
Subject = TypeVar("Subject")  # what is asked for: a class label, a scene, a motion


def seeds(first: int, count: int) -> list[torch.Generator]:
    """One generator a picture."""
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


class Readers:
    """The digit classifier, and an SVM on the plain 8x8 digits that shares nothing with our networks."""

    def __init__(self, net: Path = NET) -> None:
        self.net = DigitsClassifier.load(net)
        plain, labels = plain_digits()
        self.svm = SVC(gamma=0.001 * 256).fit(plain.flatten(1).numpy(), labels.numpy())

    @torch.no_grad()
    def by_net(self, digits: Tensor) -> Tensor:
        """Read digits [n, 1, 32, 32] in [0, 1]; labels [n]."""
        labels: Tensor = self.net(digits).logits.argmax(1)
        return labels

    def by_svm(self, digits: Tensor) -> Tensor:
        """Read digits [n, 1, 32, 32] in [0, 1]; labels [n]."""
        return torch.from_numpy(self.svm.predict(to_plain(digits).numpy()))

    def shares(self, digits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the share that each of them reads right."""
        return {
            f"recognised_by_{name}": share(read(digits) == labels)
            for name, read in (("classifier", self.by_net), ("svm", self.by_svm))
        }


def share(hits: Tensor) -> float:
    """Share of true values, rounded to 0.0001."""
    return round(hits.double().mean().item(), 4)


def nearest(images: Tensor, training: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (root mean square, 0 to 1) and index of the nearest training picture of each image."""
    a, b = images.flatten(1), training.flatten(1)
    distance = torch.cdist(a, b) / a.shape[1] ** 0.5
    least = distance.min(1)
    return least.values, least.indices


def nearest_among(training: Tensor) -> float:
    """Median distance of a training picture to the nearest other one."""
    apart = torch.cdist(training.flatten(1), training.flatten(1)) / training[0].numel() ** 0.5
    apart.fill_diagonal_(torch.inf)
    return float(apart.min(1).values.median())


def diversity(images: Tensor, labels: Tensor) -> float:
    """Mean root-mean-square distance between two pictures of the same class."""
    totals = []
    for label in range(NUM_CLASSES):
        rows = images[labels == label].flatten(1)
        if len(rows) > 1:
            totals.append((torch.pdist(rows) / rows.shape[1] ** 0.5).mean().item())
    return float(np.mean(totals))


def memory(digits: Tensor, labels: Tensor, training: Tensor, training_labels: Tensor) -> dict[str, object]:
    """Return how far drawn digits are from the training ones, and from each other.

    Shapes: digits [n, 1, 32, 32], training [m, 1, 32, 32], both in [0, 1].
    """
    distance, _ = nearest(digits, training)
    return {
        "nearest_training_rms": {"median": distance.median().item(), "min": distance.min().item()},
        "nearest_among_training_rms": {"median": nearest_among(training)},
        "diversity": diversity(digits, labels),
        "diversity_training": diversity(training, training_labels),
    }


def grid(images: Tensor, columns: int, scale: int = 2) -> Image.Image:
    """Tile pictures [n, 1, h, w] in [0, 1] row by row."""
    rows = [torch.cat(list(images[i : i + columns]), dim=-1) for i in range(0, len(images), columns)]
    tiled = (torch.cat(rows, dim=-2)[0] * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(tiled)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def neighbours(images: Tensor, training: Tensor) -> Image.Image:
    """Show pictures [n, 1, h, w] in [0, 1] above their nearest training pictures."""
    _, index = nearest(images, training)
    return grid(torch.cat([images, training[index]]), len(images))


def film(clips: Tensor, path: Path, columns: int | None = None) -> None:
    """Write an animation of clips [n, t, 1, h, w] in [0, 1], tiled row by row."""
    frames = [grid(clips[:, i], columns or len(clips), scale=3) for i in range(clips.shape[1])]
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=120, loop=0)


def store_features(path: Path, total: int, draw: Callable[[int], Tensor], batch: int) -> None:
    """Store features of `total` uncached samples, fp16 [total, d].

    Args:
        path: the .npz to write.
        total: how many.
        draw: first seed's offset -> features [batch, d] of the samples from there on.
        batch: how many it draws at once.
    """
    parts = [draw(start) for start in range(0, total, batch)]
    features = torch.cat(parts)[:total].numpy()
    np.savez_compressed(path, features=features.astype(np.float16), first_seed=FIRST_SEED)


@dataclass(frozen=True)
class Card(Generic[Subject]):
    """How one of the reference models is measured.

    Attributes:
        name: of its folder.
        guidance: scale of the measured samples.
        samples: how many.
        batch: how many are drawn at once.
        subjects: number of the first and how many -> what is asked for.
        call: pipeline, subjects and the call's other arguments -> [n, …] in [0, 1].
        measure: samples, their subjects, readers and the card's folder -> numbers; saves the pictures.
        features: readers, samples -> [n, d].
    """

    name: str
    guidance: float
    samples: int
    batch: int
    subjects: Callable[[int, int], list[Subject]]
    call: Callable[[Any, list[Subject], dict[str, Any]], Tensor]
    measure: Callable[[Tensor, list[Subject], Readers, Path], dict[str, object]]
    features: Callable[[Readers, Tensor], Tensor]

    def draw(self, pipe: Any, subjects: list[Subject], first_seed: int, request: dict[str, Any]) -> Tensor:
        """Draw one sample a subject, with one seed each."""
        drawn = []
        for start in range(0, len(subjects), self.batch):
            part = subjects[start : start + self.batch]
            generators = seeds(first_seed + start, len(part))
            drawn.append(self.call(pipe, part, {**request, "generator": generators, "output_type": "pt"}))
        return torch.cat(drawn)


def measure_card(card: Card[Subject], description: str | None) -> None:
    """Command line entry of a card."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", type=Path, default=MODELS / card.name)
    parser.add_argument("--guidance", type=float, default=card.guidance)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=card.samples)
    parser.add_argument("--features", type=int, default=0, help="also store features of so many samples")
    parser.add_argument("--stats", type=Path, default=MODELS / f"{card.name}-stats.npz")
    args = parser.parse_args()
    pipe = DiffusionPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    readers = Readers()
    start = time.monotonic()
    request = {"guidance_scale": args.guidance, "num_inference_steps": args.steps}
    subjects = card.subjects(0, args.samples)
    samples = card.draw(pipe, subjects, FIRST_SEED, request)
    numbers = {
        "first_seed": FIRST_SEED,
        **request,
        **card.measure(samples, subjects, readers, args.model),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(numbers))
    (args.model / "card.json").write_text(json.dumps(numbers, indent=2) + "\n")

    @torch.no_grad()
    def features(first: int) -> Tensor:
        some = samples[first : first + card.batch]  # the measured ones first
        if len(some) < card.batch:
            some = card.draw(pipe, card.subjects(first, card.batch), FIRST_SEED + first, request)
        return card.features(readers, some)

    if args.features:
        store_features(args.stats, args.features, features, card.batch)
