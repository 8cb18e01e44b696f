"""Scenes of one or two real digits on a 64x64 canvas, and the prompts that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from experiments.training.digits import NUM_CLASSES, training_images
from experiments.training.text import DIGITS

CANVAS = 64
BOX = 32  # side of one digit
RELATIONS = ("left of", "right of", "above", "below")
CENTRE = (16, 16)
# top left corners of the first and the second digit
PLACES = {
    "left of": ((16, 0), (16, 32)),
    "right of": ((16, 32), (16, 0)),
    "above": ((0, 16), (32, 16)),
    "below": ((32, 16), (0, 16)),
}
SINGLE_SHARE = 0.2  # of the training scenes; pairs are harder to learn


@dataclass(frozen=True)
class Scene:
    """What a prompt asks for: digits and the top left corners of their 32x32 boxes."""

    prompt: str
    digits: tuple[int, ...]
    corners: tuple[tuple[int, int], ...]


def single(digit: int) -> Scene:
    """One digit in the middle."""
    return Scene(DIGITS[digit], (digit,), (CENTRE,))


def pair(first: int, relation: str, second: int) -> Scene:
    """Two digits, the first one `relation` the second."""
    prompt = f"{_article(first)} {DIGITS[first]} {relation} {_article(second)} {DIGITS[second]}"
    return Scene(prompt, (first, second), PLACES[relation])


def _article(digit: int) -> str:
    return "an" if DIGITS[digit][0] in "aeiou" and DIGITS[digit] != "one" else "a"


def all_scenes() -> list[Scene]:
    """All 410 scenes: 10 single digits, then 100 pairs in each of four relations."""
    numbers = range(NUM_CLASSES)
    pairs = [pair(a, relation, b) for relation in RELATIONS for a in numbers for b in numbers]
    return [single(a) for a in numbers] + pairs


class Canvases:
    """Draws random scenes with real digits."""

    def __init__(self) -> None:
        self.images, labels = training_images()
        self.rows = [torch.nonzero(labels == digit)[:, 0] for digit in range(NUM_CLASSES)]
        scenes = all_scenes()
        self.singles, self.pairs = scenes[:NUM_CLASSES], scenes[NUM_CLASSES:]

    def draw(self, scenes: Sequence[Scene]) -> torch.Tensor:
        """Pictures of the scenes with digits chosen at random. Shape [n, 1, 64, 64] in [-1, 1]."""
        canvas = torch.full((len(scenes), 1, CANVAS, CANVAS), -1.0)
        for picture, scene in zip(canvas, scenes, strict=True):
            for digit, (top, left) in zip(scene.digits, scene.corners, strict=True):
                rows = self.rows[digit]
                chosen = rows[torch.randint(len(rows), (1,))]
                picture[:, top : top + BOX, left : left + BOX] = self.images[chosen[0]]
        return canvas

    def batch(self, size: int) -> tuple[torch.Tensor, list[str]]:
        """Random scenes: pictures [size, 1, 64, 64] in [-1, 1] and their prompts."""
        scenes = []
        for _ in range(size):
            pool = self.singles if torch.rand(()) < SINGLE_SHARE else self.pairs
            scenes.append(pool[int(torch.randint(len(pool), ()))])
        return self.draw(scenes), [scene.prompt for scene in scenes]


def halved(pictures: torch.Tensor) -> torch.Tensor:
    """The same pictures at half the side. Shape [n, 1, s, s] -> [n, 1, s / 2, s / 2]."""
    return F.avg_pool2d(pictures, 2)


def crops(pictures: torch.Tensor, scenes: Sequence[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the digits out of pictures of `scenes`.

    Shapes: pictures [n, 1, 64, 64] -> digits [m, 1, 32, 32], their true labels [m].
    """
    parts, labels = [], []
    for picture, scene in zip(pictures, scenes, strict=True):
        for digit, (top, left) in zip(scene.digits, scene.corners, strict=True):
            parts.append(picture[:, top : top + BOX, left : left + BOX])
            labels.append(digit)
    return torch.stack(parts), torch.tensor(labels)
