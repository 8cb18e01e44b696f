"""ImageReward from a local folder, through the authors' package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from autotune.scoring.nets.seen import colour
from autotune.scoring.nets.spec import NetSpec
from xslim.errors import ConfigError


class ImageRewardNet:
    """The authors' model: a reward learned from human choices, about -2.5 to 2.5.

    The package reads one PIL picture at a time, so this is slow, and its tokenizer (`bert-base-uncased`)
    must lie in the local cache of transformers.

    Source: arXiv:2304.05977.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    @classmethod
    def load(cls, folder: str, device: torch.device) -> ImageRewardNet:
        """Load `ImageReward.pt` with `med_config.json` of a folder.

        Raises:
            ConfigError: the package is not installed, or the folder holds no such model.
        """
        NetSpec("image_reward", folder).check("image_reward")
        try:
            with redirect_stdout(sys.stderr):  # it tells what it does; our stdout is for results
                model = import_module("ImageReward").load(
                    str(Path(folder) / "ImageReward.pt"),
                    device=str(device),
                    med_config=str(Path(folder) / "med_config.json"),
                )
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise ConfigError(
                f"got {folder!r}, cannot load it: {reason}", key="metrics.image_reward.model"
            ) from None
        return cls(model)

    def scores(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return the reward of each picture. Shapes: images [n, 1 or 3, h, w] in [0, 1], n prompts -> [n]."""
        from PIL import Image

        pictures = (colour(images) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        rewards = [
            float(self._model.score(prompt, Image.fromarray(picture)))
            for prompt, picture in zip(prompts, pictures, strict=True)
        ]
        return torch.tensor(rewards, dtype=torch.float64)
