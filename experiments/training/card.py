"""Measure `dit-digits` and write its model card's numbers and pictures, and the reference features.

python -m experiments.training.card --samples 1000 --features 10000

Draws uncached samples with seeds that no training decision used, and reports: how many the classifier and
an SVM on the plain 8x8 digits recognise, the nearest training neighbours, and a diversity figure.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import DiTPipeline
from torch import Tensor

from experiments.training import quality
from experiments.training.digits import NUM_CLASSES, training_images

SHOWN = 10


def pick(first: int, count: int) -> list[int]:
    """Class labels in turn."""
    return [i % NUM_CLASSES for i in range(first, first + count)]


def call(pipe: DiTPipeline, labels: list[int], request: dict[str, Any]) -> Tensor:
    """Draw one picture a label. Shape [n, 1, 32, 32] in [0, 1]."""
    images: Tensor = pipe(class_labels=labels, **request).images
    return images.float()


def measure(images: Tensor, drawn: list[int], readers: quality.Readers, folder: Path) -> dict[str, object]:
    """Return the card's numbers of pictures of these labels; save the card's pictures."""
    labels = torch.tensor(drawn)
    training, training_labels = training_images()
    training = training / 2 + 0.5
    quality.grid(images[: SHOWN * 5], SHOWN).save(folder / "samples.png")
    quality.neighbours(images[:SHOWN], training).save(folder / "nearest.png")
    return {
        "samples": len(images),
        **readers.shares(images, labels),
        **quality.memory(images, labels, training, training_labels),
    }


CARD = quality.Card(
    name="dit-digits",
    guidance=1.5,
    samples=1000,
    batch=50,
    subjects=pick,
    call=call,
    measure=measure,
    features=lambda readers, images: readers.net(images).features,
)


if __name__ == "__main__":
    quality.measure_card(CARD, __doc__)
