"""Measure `hunyuan-digits` and write its model card's numbers and pictures, and the reference features.

python -m experiments.training.hunyuan_card --samples 400 --features 2000

Of every clip the digit is cut out of the first, the middle and the last frame and read by the classifier and
by an SVM on the plain 8x8 digits; the direction is that in which the centre of the ink moves.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import HunyuanVideoPipeline
from torch import Tensor

from experiments.training import quality
from experiments.training.clips import FRAMES, Motion, all_motions, centres, crops, directions
from experiments.training.digits import training_images
from experiments.training.hunyuan import CALL

BATCH = 25
SHOWN = 8
READ_FRAMES = (0, FRAMES // 2, FRAMES - 1)
MOTIONS = all_motions()


def pick(first: int, count: int) -> list[Motion]:
    """Motions in an order that mixes digits and directions."""
    return [MOTIONS[(first + i) * 7 % len(MOTIONS)] for i in range(count)]


def draw(
    pipe: HunyuanVideoPipeline, motions: list[Motion], first_seed: int, guidance: float, steps: int
) -> Tensor:
    """Draw one clip a motion. Shape [n, 1, 9, 32, 32] in [0, 1]."""
    clips = []
    for start in range(0, len(motions), BATCH):
        part = motions[start : start + BATCH]
        result = pipe(
            [motion.prompt for motion in part],
            guidance_scale=guidance,
            num_inference_steps=steps,
            generator=quality.seeds(first_seed + start, len(part)),
            output_type="pt",
            **CALL,
        )
        clips.append(result.frames.float().clamp(0, 1).transpose(1, 2))
    return torch.cat(clips)


def measure(
    clips: Tensor, motions: list[Motion], readers: quality.Readers, folder: Path
) -> dict[str, object]:
    """Return the card's numbers of clips of `motions`; save the card's pictures."""
    labels = torch.tensor([motion.digit for motion in motions])
    right = [name == motion.direction for name, motion in zip(directions(clips), motions, strict=True)]
    moved = (centres(clips)[:, -1] - centres(clips)[:, 0]).abs().max(1).values
    training, training_labels = training_images()
    frames = clips.transpose(1, 2)
    quality.grid(frames[:SHOWN].flatten(0, 1), FRAMES).save(folder / "samples.png")  # a clip a row
    quality.film(frames[: SHOWN * 2], folder / "samples.gif", columns=SHOWN)
    return {
        "samples": len(clips),
        "direction_right": quality.share(torch.tensor(right)),
        "pixels_moved": {"median": moved.median().item(), "p5": moved.quantile(0.05).item()},
        "frames": {str(frame): readers.shares(crops(clips, frame), labels) for frame in READ_FRAMES},
        **quality.memory(crops(clips, FRAMES // 2), labels, training / 2 + 0.5, training_labels),
    }


def main() -> None:
    """Command line entry."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("experiments/models/hunyuan-digits"))
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--samples", type=int, default=400)
    parser.add_argument("--features", type=int, default=0, help="also store features of so many samples")
    parser.add_argument("--stats", type=Path, default=Path("experiments/models/hunyuan-digits-stats.npz"))
    args = parser.parse_args()
    pipe = HunyuanVideoPipeline.from_pretrained(args.model)
    pipe.set_progress_bar_config(disable=True)
    readers = quality.Readers()
    start = time.monotonic()
    motions = pick(0, args.samples)
    clips = draw(pipe, motions, quality.FIRST_SEED, args.guidance, args.steps)
    numbers = {
        "first_seed": quality.FIRST_SEED,
        "guidance_scale": args.guidance,
        "num_inference_steps": args.steps,
        **measure(clips, motions, readers, args.model),
        "seconds": round(time.monotonic() - start, 1),
    }
    print(json.dumps(numbers))
    (args.model / "card.json").write_text(json.dumps(numbers, indent=2) + "\n")

    @torch.no_grad()
    def features(first: int) -> Tensor:
        drawn = clips[first : first + BATCH]  # the measured ones first
        if len(drawn) < BATCH:
            more = pick(first, BATCH)
            drawn = draw(pipe, more, quality.FIRST_SEED + first, args.guidance, args.steps)
        frames = drawn.transpose(1, 2)  # as the metrics take a clip's features: the mean over frames
        return readers.net(frames.flatten(0, 1)).features.unflatten(0, frames.shape[:2]).mean(1)

    if args.features:
        quality.store_features(args.stats, args.features, features, BATCH)


if __name__ == "__main__":
    main()
