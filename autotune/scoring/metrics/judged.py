"""Scores that a network gives a picture for its prompt, without a reference picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from autotune.scoring.metrics.inputs import unit_images
from xslim.errors import ConfigError


class Judge(Protocol):
    """A network that reads a picture and its prompt."""

    def scores(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score pictures. Shapes: images [n, c, h, w] in [0, 1], n prompts -> [n]."""
        ...


def judged(judge: Judge, images: Tensor, prompts: Sequence[int | str]) -> Tensor:
    """Return the judge's score of each picture; higher is better.

    Shapes: images [n, c, h, w], uint8 or floats in [0, 1], n prompts -> [n] float64, on the CPU.

    Raises:
        ConfigError: a prompt is no text, their number differs, values are out of range, or a score is not
            finite.
    """
    pictures = unit_images(images, dtype=torch.float32)
    if len(prompts) != len(pictures):
        raise ConfigError(f"got {len(prompts)}, need one for each of {len(pictures)} pictures", key="prompts")
    texts = [prompt for prompt in prompts if isinstance(prompt, str)]
    if len(texts) != len(prompts):
        other = next(prompt for prompt in prompts if not isinstance(prompt, str))
        raise ConfigError(
            f"got {other!r}; scores for prompts need texts: leave clip_score and image_reward out of metrics",
            key="model.prompts",
        )
    scores = judge.scores(pictures, texts).double().cpu()
    if not torch.isfinite(scores).all():
        raise ConfigError("got a score that is not finite; check the pictures and the network", key="images")
    return scores
