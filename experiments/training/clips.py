"""Clips of one real digit that moves across a 32x32 canvas, and the prompts that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from experiments.training.digits import NUM_CLASSES, plain_digits
from experiments.training.text import DIGITS

CANVAS = 32
BOX = 16  # side of the digit
FRAMES = 9
STEP = 2  # pixels from frame to frame
LANES = (4, 12)  # the digit's place across its path, first and last
DIRECTIONS = {"right": (0, 1), "left": (0, -1), "down": (1, 0), "up": (-1, 0)}  # rows, columns


@dataclass(frozen=True)
class Motion:
    """What a prompt asks for."""

    digit: int
    direction: str

    @property
    def prompt(self) -> str:
        """Such as "seven moving right"."""
        return f"{DIGITS[self.digit]} moving {self.direction}"


def all_motions() -> list[Motion]:
    """All 40 motions."""
    return [Motion(digit, direction) for direction in DIRECTIONS for digit in range(NUM_CLASSES)]


def corner(motion: Motion, lane: int, frame: int) -> tuple[int, int]:
    """Top left corner of the digit's box in a frame."""
    rows, columns = DIRECTIONS[motion.direction]
    along = STEP * frame if rows + columns > 0 else CANVAS - BOX - STEP * frame
    return (along, lane) if rows else (lane, along)


class Clips:
    """Draws random clips with real digits."""

    def __init__(self) -> None:
        images, labels = plain_digits()
        images = F.interpolate(images, size=(BOX, BOX), mode="bicubic", align_corners=False)
        self.images = images.clamp(0, 1) * 2 - 1
        self.rows = [torch.nonzero(labels == digit)[:, 0] for digit in range(NUM_CLASSES)]
        self.motions = all_motions()

    def draw(self, motions: Sequence[Motion]) -> torch.Tensor:
        """Clips with digits and lanes chosen at random. Shape [n, 1, 9, 32, 32] in [-1, 1]."""
        clips = torch.full((len(motions), 1, FRAMES, CANVAS, CANVAS), -1.0)
        for clip, motion in zip(clips, motions, strict=True):
            rows = self.rows[motion.digit]
            digit = self.images[rows[int(torch.randint(len(rows), ()))]]
            lane = int(torch.randint(LANES[0], LANES[1] + 1, ()))
            for frame in range(FRAMES):
                top, left = corner(motion, lane, frame)
                clip[:, frame, top : top + BOX, left : left + BOX] = digit
        return clips

    def batch(self, size: int) -> tuple[torch.Tensor, list[str]]:
        """Random clips [size, 1, 9, 32, 32] in [-1, 1] and their prompts."""
        motions = [self.motions[int(torch.randint(len(self.motions), ()))] for _ in range(size)]
        return self.draw(motions), [motion.prompt for motion in motions]


def centres(clips: torch.Tensor) -> torch.Tensor:
    """Centre of the ink of every frame, in pixels.

    Shapes: clips [n, 1, t, h, w] in [0, 1] -> [n, t, 2] (row, column).
    """
    ink = clips[:, 0].clamp(0, 1)
    ink = torch.where(ink > 0.2, ink, 0.0)  # the background's ripple must not pull the centre
    mass = ink.sum((-2, -1)).clamp_min(1e-6)
    rows = torch.arange(ink.shape[-2], dtype=ink.dtype) + 0.5
    columns = torch.arange(ink.shape[-1], dtype=ink.dtype) + 0.5
    row = (ink.sum(-1) * rows).sum(-1) / mass
    column = (ink.sum(-2) * columns).sum(-1) / mass
    return torch.stack([row, column], -1)


def directions(clips: torch.Tensor) -> list[str]:
    """Name the direction in which the ink of each clip moves most.

    Shape: clips [n, 1, t, h, w] in [0, 1].
    """
    paths = centres(clips)
    names = list(DIRECTIONS)
    vectors = torch.tensor([DIRECTIONS[name] for name in names], dtype=paths.dtype)
    best = ((paths[:, -1] - paths[:, 0]) @ vectors.T).argmax(1)
    return [names[index] for index in best.tolist()]


def crops(clips: torch.Tensor, frame: int) -> torch.Tensor:
    """Cut the digit out of one frame of each clip, around the centre of its ink.

    Shapes: clips [n, 1, t, 32, 32] in [0, 1] -> [n, 1, 32, 32], the classifier's size.
    """
    frames = clips[:, :, frame]
    middle = centres(clips)[:, frame].round().long()
    padded = F.pad(frames, [BOX // 2] * 4)
    parts = [
        picture[:, row : row + BOX, column : column + BOX]
        for picture, (row, column) in zip(padded, middle.tolist(), strict=True)
    ]
    return F.interpolate(torch.stack(parts), size=(32, 32), mode="bicubic", align_corners=False).clamp(0, 1)
