"""Reference outputs: uncached pictures on disk by content hash, shared by workers and later searches."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner, model_sha256

FORMAT = 1  # rises when the way references are drawn changes


class ReferenceStore:
    """Uncached pictures of batches. Writes are atomic; an entry that fails its checksum is redrawn."""

    def __init__(self, folder: Path, runner: PipelineRunner) -> None:
        self._folder = folder
        self._runner = runner
        spec = {k: v for k, v in asdict(runner.spec).items() if k not in ("path", "batch", "device")}
        self._identity = {
            "format": FORMAT,
            "model": model_sha256(runner.spec.path),
            "scheduler": type(runner.pipe.scheduler).__name__,
            "device": runner.device.type,
            "torch": torch.__version__,
            **spec,
        }

    def key(self, batch: Sequence[Case]) -> str:
        """Content hash of one batch; its size is part of it, because kernels round by batch size."""
        entry = {**self._identity, "cases": [asdict(case) for case in batch]}
        return sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()

    def images(self, batch: Sequence[Case]) -> Tensor:
        """Return the uncached pictures of one batch, drawn when they are not stored.

        Shape [cases, channels, height, width] in [0, 1]. The model must be detached.
        """
        path = self._folder / f"{self.key(batch)}.npz"
        stored = _read(path)
        if stored is None:
            stored = self._runner.draw(batch).numpy()
            _write(path, stored)
        return torch.from_numpy(stored)


def _read(path: Path) -> np.ndarray | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as entry:
            images: np.ndarray = entry["images"]
            if str(entry["sha256"]) == sha256(images.tobytes()).hexdigest():
                return images
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass  # absent or damaged: drawn again
    return None


def _write(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, images=images, sha256=np.array(sha256(images.tobytes()).hexdigest()))
        os.replace(part, path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
