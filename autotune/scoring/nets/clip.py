"""CLIP from a local folder: embeddings for `cmmd`, and `clip_score`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn

from autotune.scoring.metrics.clip_score import clip_score
from autotune.scoring.nets.seen import Seen, colour, normalised
from autotune.scoring.nets.spec import NetSpec
from xslim.errors import ConfigError

# of OpenAI's models; a folder may state others
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError)


class ClipNet(nn.Module):
    """A CLIP model in transformers' format.

    Pictures are prepared with tensors, on the model's device: shorter side to the model's size (bicubic,
    smoothed), centre cut, normalised. Texts beyond the model's length are cut; the end mark stays.

    Source: arXiv:2103.00020.
    """

    heads = None

    def __init__(self, model: Any, tokenizer: Any, preprocessor: dict[str, Any]) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self.side: int = model.config.vision_config.image_size
        self._mean = tuple(preprocessor.get("image_mean", MEAN))
        self._std = tuple(preprocessor.get("image_std", STD))
        self._length: int = model.config.text_config.max_position_embeddings

    @classmethod
    def load(cls, folder: str, role: str) -> ClipNet:
        """Load a local folder; nothing is fetched.

        Raises:
            ConfigError: transformers is not installed, or the folder holds no CLIP model.
        """
        NetSpec("clip", folder).check(role)
        from transformers import AutoTokenizer, CLIPModel

        try:
            with _no_progress_bar():
                model = CLIPModel.from_pretrained(folder, local_files_only=True)
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            preprocessor = _preprocessor(Path(folder))
        except LOADING_ERRORS as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise ConfigError(
                f"got {folder!r}, cannot load it: {reason}", key=f"metrics.{role}.model"
            ) from None
        return cls(model, tokenizer, preprocessor)

    def see(self, images: Tensor) -> Seen:
        """Return the projected picture embeddings. Shapes: images [n, 1 or 3, h, w] in [0, 1]."""
        output = self.model.get_image_features(pixel_values=self._prepared(images))
        return Seen(features=_embedding(output))

    def scores(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Return CLIPScore. Shapes: images [n, 1 or 3, h, w] in [0, 1], n prompts -> [n]."""
        device = self.model.device
        tokens = self._tokenizer(
            list(prompts), return_tensors="pt", padding=True, truncation=True, max_length=self._length
        )
        texts = self.model.get_text_features(
            input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
        )
        features = self.see(images.to(device)).features
        if features is None:
            raise TypeError("a CLIP network without features")
        return clip_score(features, _embedding(texts))

    def _prepared(self, images: Tensor) -> Tensor:
        x = colour(images)
        height, width = x.shape[-2:]
        if min(height, width) != self.side:
            scale = self.side / min(height, width)
            size = (max(self.side, int(height * scale)), max(self.side, int(width * scale)))
            x = F.interpolate(x, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        top, left = (x.shape[-2] - self.side) // 2, (x.shape[-1] - self.side) // 2
        x = x[..., top : top + self.side, left : left + self.side]
        return normalised(x, self._mean, self._std)


def _embedding(output: Any) -> Tensor:
    """The projected embeddings; transformers 5 wraps them."""
    projected: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return projected.float()


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep transformers from drawing one; whether it does is a setting of the whole process."""
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _preprocessor(folder: Path) -> dict[str, Any]:
    """What the folder states of how pictures are prepared."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            data = json.loads((folder / name).read_text())
            found: dict[str, Any] = data.get("image_processor", data)
            return found
    return {}
