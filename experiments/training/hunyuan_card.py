"""Measure `hunyuan-digits` and write its model card's numbers and pictures, and the reference features.

python -m experiments.training.hunyuan_card --samples 400 --features 2000

Of every clip the digit is cut out of the first, the middle and the last frame and read by the classifier and
by an SVM on the plain 8x8 digits; the direction is that in which the centre of the ink moves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import HunyuanVideoPipeline
from torch import Tensor

from experiments.training import quality
from experiments.training.clips import FRAMES, Motion, all_motions, centres, crops, directions
from experiments.training.digits import training_images
from experiments.training.hunyuan import CALL

SHOWN = 8
READ_FRAMES = (0, FRAMES // 2, FRAMES - 1)
MOTIONS = all_motions()


def pick(first: int, count: int) -> list[Motion]:
    """Motions in an order that mixes digits and directions."""
    return [MOTIONS[(first + i) * 7 % len(MOTIONS)] for i in range(count)]


def call(pipe: HunyuanVideoPipeline, motions: list[Motion], request: dict[str, Any]) -> Tensor:
    """Draw one clip a motion. Shape [n, 1, 9, 32, 32] in [0, 1]."""
    frames: Tensor = pipe([motion.prompt for motion in motions], **request, **CALL).frames
    return frames.float().clamp(0, 1).transpose(1, 2)


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


def features(readers: quality.Readers, clips: Tensor) -> Tensor:
    """As the metrics take a clip's features: the mean over its frames. Shape [n, d]."""
    frames = clips.transpose(1, 2)
    return readers.net(frames.flatten(0, 1)).features.unflatten(0, frames.shape[:2]).mean(1)


CARD = quality.Card(
    name="hunyuan-digits",
    guidance=2.0,
    samples=400,
    batch=25,
    subjects=pick,
    call=call,
    measure=measure,
    features=features,
)


if __name__ == "__main__":
    quality.measure_card(CARD, __doc__)
