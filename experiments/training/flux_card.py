"""Measure `flux-digits` and write its model card's numbers and pictures, and the reference features.

python -m experiments.training.flux_card --samples 400 --features 2000

Half of the samples are single digits, half pairs; of every scene the digits are cut out of the places that
the prompt names, and read by the classifier and by an SVM on the plain 8x8 digits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import FluxPipeline
from torch import Tensor

from experiments.training import quality
from experiments.training.canvas import Scene, all_scenes, crops
from experiments.training.digits import NUM_CLASSES, training_images
from experiments.training.flux import CALL

SHOWN = 8
SCENES = all_scenes()
SINGLES, PAIRS = SCENES[:NUM_CLASSES], SCENES[NUM_CLASSES:]


def scenes_from(first: int, count: int) -> list[Scene]:
    """Scenes number `first` and on: single digits and pairs in turn, in an order that mixes them."""
    pools = [SINGLES, PAIRS]
    return [pools[i % 2][i // 2 * 7 % len(pools[i % 2])] for i in range(first, first + count)]


def call(pipe: FluxPipeline, scenes: list[Scene], request: dict[str, Any]) -> Tensor:
    """Draw one picture a scene. Shape [n, 1, 64, 64] in [0, 1]."""
    images: Tensor = pipe([scene.prompt for scene in scenes], **request, **CALL).images
    return images.float().clamp(0, 1)


def measure(images: Tensor, scenes: list[Scene], readers: quality.Readers, folder: Path) -> dict[str, object]:
    """Return the card's numbers of pictures of `scenes`; save the card's pictures."""
    single, pair = images[0::2], images[1::2]
    digits, labels = crops(single, scenes[0::2])
    pair_digits, pair_labels = crops(pair, scenes[1::2])
    training, training_labels = training_images()
    training = training / 2 + 0.5
    quality.grid(torch.cat([single[: SHOWN * 2], pair[: SHOWN * 4]]), SHOWN).save(folder / "samples.png")
    quality.neighbours(digits[:SHOWN], training).save(folder / "nearest.png")
    return {
        "samples": {"single": len(single), "pair": len(pair)},
        "single": readers.shares(digits, labels),
        "pair_digits": readers.shares(pair_digits, pair_labels),
        **quality.memory(digits, labels, training, training_labels),
    }


CARD = quality.Card(
    name="flux-digits",
    guidance=2.0,
    samples=400,
    batch=25,
    subjects=scenes_from,
    call=call,
    measure=measure,
    features=lambda readers, images: readers.net(images).features,
)


if __name__ == "__main__":
    quality.measure_card(CARD, __doc__)
