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


def pick(pool: list[Scene], first: int, count: int) -> list[Scene]:
    """Scenes in an order that mixes digits and relations."""
    return [pool[(first + i) * 7 % len(pool)] for i in range(count)]


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


def measure(pipe: FluxPipeline, readers: quality.Readers, args: argparse.Namespace) -> dict[str, object]:
    """Draw singles and pairs; return the card's numbers and save its pictures."""
    half = args.samples // 2
    singles, pairs = pick(SINGLES, 0, half), pick(PAIRS, 0, half)
    first = quality.FIRST_SEED
    images = draw(pipe, singles, first, args.guidance, args.steps)
    digits, labels = crops(images, singles)
    paired = draw(pipe, pairs, first + half, args.guidance, args.steps)
    pair_digits, pair_labels = crops(paired, pairs)
    training, training_labels = training_images()
    training = training / 2 + 0.5
    both = torch.cat([images[: SHOWN * 2], paired[: SHOWN * 4]])
    quality.grid(both, SHOWN).save(args.model / "samples.png")
    _, index = quality.nearest(digits, training)
    rows = torch.stack([digits[:SHOWN], training[index[:SHOWN]]]).flatten(0, 1)
    quality.grid(rows, SHOWN).save(args.model / "nearest.png")
    return {
        "samples": {"single": half, "pair": half},
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
    numbers = {
        "first_seed": quality.FIRST_SEED,
        "guidance_scale": args.guidance,
        "num_inference_steps": args.steps,
        **measure(pipe, readers, args),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(numbers))
    (args.model / "card.json").write_text(json.dumps(numbers, indent=2) + "\n")

    @torch.no_grad()
    def features(first: int) -> Tensor:
        scenes = pick(SCENES, first, BATCH)
        images = draw(pipe, scenes, quality.FIRST_SEED + first, args.guidance, args.steps)
        return readers.net(images).features

    if args.features:
        quality.store_features(args.stats, args.features, features, BATCH)


if __name__ == "__main__":
    main()
