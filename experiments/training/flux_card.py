"""Measure `flux-digits` and write its model card's numbers and pictures, and the reference features.

python -m experiments.training.flux_card --samples 400 --features 2000

Half of the samples are single digits, half pairs; of every scene the digits are cut out of the places that
the prompt names, and read by the classifier and by an SVM on the plain 8x8 digits.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import FluxPipeline
from torch import Tensor

from experiments.training import quality
from experiments.training.canvas import Scene, all_scenes, crops
from experiments.training.digits import NUM_CLASSES, training_images
from experiments.training.flux import CALL

BATCH = 25
SHOWN = 8
SCENES = all_scenes()
SINGLES, PAIRS = SCENES[:NUM_CLASSES], SCENES[NUM_CLASSES:]


def scenes_from(first: int, count: int) -> list[Scene]:
    """Scenes number `first` and on: single digits and pairs in turn, in an order that mixes them."""
    pools = [SINGLES, PAIRS]
    return [pools[i % 2][i // 2 * 7 % len(pools[i % 2])] for i in range(first, first + count)]


def draw(pipe: FluxPipeline, scenes: list[Scene], first_seed: int, guidance: float, steps: int) -> Tensor:
    """Draw one picture a scene. Shape [n, 1, 64, 64] in [0, 1]."""
    pictures = []
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        result = pipe(
            [scene.prompt for scene in part],
            guidance_scale=guidance,
            num_inference_steps=steps,
            generator=quality.seeds(first_seed + start, len(part)),
            output_type="pt",
            **CALL,
        )
        pictures.append(result.images.float().clamp(0, 1))
    return torch.cat(pictures)


def measure(images: Tensor, scenes: list[Scene], readers: quality.Readers, folder: Path) -> dict[str, object]:
    """Return the card's numbers of pictures of `scenes`; save the card's pictures."""
    single, pair = images[0::2], images[1::2]
    digits, labels = crops(single, scenes[0::2])
    pair_digits, pair_labels = crops(pair, scenes[1::2])
    training, training_labels = training_images()
    training = training / 2 + 0.5
    quality.grid(torch.cat([single[: SHOWN * 2], pair[: SHOWN * 4]]), SHOWN).save(folder / "samples.png")
    _, index = quality.nearest(digits, training)
    rows = torch.stack([digits[:SHOWN], training[index[:SHOWN]]]).flatten(0, 1)
    quality.grid(rows, SHOWN).save(folder / "nearest.png")
    return {
        "samples": {"single": len(single), "pair": len(pair)},
        "single": readers.shares(digits, labels),
        "pair_digits": readers.shares(pair_digits, pair_labels),
        **quality.memory(digits, labels, training, training_labels),
    }


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("experiments/models/flux-digits"))
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--features", type=int, default=0, help="also store features of so many samples")
    parser.add_argument("--stats", type=Path, default=Path("experiments/models/flux-digits-stats.npz"))
    args = parser.parse_args()
    pipe = FluxPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    readers = quality.Readers()
    start = time.monotonic()
    scenes = scenes_from(0, args.samples)
    images = draw(pipe, scenes, quality.FIRST_SEED, args.guidance, args.steps)
    numbers = {
        "first_seed": quality.FIRST_SEED,
        "guidance_scale": args.guidance,
        "num_inference_steps": args.steps,
        **measure(images, scenes, readers, args.model),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(numbers))
    (args.model / "card.json").write_text(json.dumps(numbers, indent=2) + "\n")

    @torch.no_grad()
    def features(first: int) -> Tensor:
        pictures = images[first : first + BATCH]  # the measured ones first
        if len(pictures) < BATCH:
            more = scenes_from(first, BATCH)
            pictures = draw(pipe, more, quality.FIRST_SEED + first, args.guidance, args.steps)
        return readers.net(pictures).features

    if args.features:
        quality.store_features(args.stats, args.features, features, BATCH)


if __name__ == "__main__":
    main()
