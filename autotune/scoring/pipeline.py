"""The pipeline under test: loading, drawing cases, and the time of its denoising loop."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from autotune.scoring.case import Case
from xslim.errors import ConfigError

HASH_WHOLE_BELOW_BYTES = 2**30  # larger weights are known by their headers and sizes


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model is run, and how a request looks.

    Attributes:
        path: a diffusers folder, or a hub id.
        num_steps: denoising steps of the reference configuration.
        guidance_scale: classifier-free guidance.
        dtype: `float32`, `bfloat16` or `float16`.
        device: such as `cpu` or `cuda`; `auto` takes a GPU when there is one.
        batch: pictures drawn at once, the same for references and candidates.
    """

    path: str
    num_steps: int
    guidance_scale: float
    dtype: str = "float32"
    device: str = "auto"
    batch: int = 8


def check_model_folder(path: str) -> None:
    """Refuse a local path that is no diffusers pipeline; hub ids pass.

    Raises:
        ConfigError: the folder is missing, or has no readable `model_index.json`.
    """
    folder = Path(path)
    looks_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
    if not looks_local:
        return
    index = folder / "model_index.json"
    if not folder.is_dir():
        raise ConfigError(
            f"got {path!r}, which is no folder; give a diffusers pipeline folder or a hub id",
            key="model.path",
        )
    if not index.is_file():
        raise ConfigError(
            f"got {path!r}, which has no model_index.json; give a folder that save_pretrained() wrote",
            key="model.path",
        )
    try:
        content = json.loads(index.read_text())
    except (OSError, ValueError):
        raise ConfigError(f"got {path!r}, whose model_index.json is unreadable", key="model.path") from None
    if not isinstance(content, dict) or not isinstance(content.get("_class_name"), str):
        raise ConfigError(f"got {path!r}, whose model_index.json names no pipeline class", key="model.path")


def model_sha256(path: str) -> str:
    """Hash a pipeline folder's configs and weights; a hub id is its own name."""
    folder = Path(path)
    digest = sha256()
    if not folder.is_dir():
        return sha256(path.encode()).hexdigest()
    for file in sorted(folder.rglob("*")):
        if file.suffix not in (".json", ".safetensors"):
            continue
        digest.update(str(file.relative_to(folder)).encode())
        size = file.stat().st_size
        digest.update(str(size).encode())
        with file.open("rb") as stream:
            digest.update(stream.read() if size < HASH_WHOLE_BELOW_BYTES else stream.read(2**20))
    return digest.hexdigest()


class PipelineRunner:
    """A loaded pipeline that draws cases.

    Raises:
        ConfigError: the folder is no pipeline, or its class has no known way to be called.
    """

    def __init__(self, spec: ModelSpec) -> None:
        from diffusers import DiffusionPipeline

        check_model_folder(spec.path)
        self.spec = spec
        device = spec.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.device(device)
        except RuntimeError:
            raise ConfigError(
                f"got {device!r}; allowed: auto, cpu, cuda, cuda:N", key="model.device"
            ) from None
        dtype = getattr(torch, spec.dtype)
        try:
            with warnings.catch_warnings():  # 0.42 calls it dtype, which 0.41 does not know
                warnings.filterwarnings("ignore", ".*torch_dtype", FutureWarning)
                pipe = DiffusionPipeline.from_pretrained(spec.path, torch_dtype=dtype)
        except (
            OSError,
            ValueError,
            KeyError,
            AttributeError,
            TypeError,
            RuntimeError,
            SafetensorError,
        ) as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise ConfigError(f"got {spec.path!r}, cannot load it: {reason}", key="model.path") from None
        self.pipe: Any = pipe.to(self.device)
        self.pipe.set_progress_bar_config(disable=True)
        self._arguments = _ARGUMENTS.get(type(pipe).__name__)
        if self._arguments is None:
            raise ConfigError(
                f"got a {type(pipe).__name__}; known: {', '.join(_ARGUMENTS)}", key="model.path"
            )

    def draw(self, cases: Sequence[Case], num_steps: int | None = None) -> Tensor:
        """Draw the cases in one batch. Shape [cases, channels, height, width], in [0, 1], fp32 on the CPU."""
        generators = [torch.Generator("cpu").manual_seed(case.seed) for case in cases]
        if self._arguments is None:
            raise RuntimeError("a runner without a way to call its pipeline")
        result = self.pipe(
            **{self._arguments: [case.prompt for case in cases]},
            guidance_scale=self.spec.guidance_scale,
            num_inference_steps=num_steps or self.spec.num_steps,
            generator=generators,
            output_type="pt",
        )
        images: Tensor = result.images
        return images.detach().float().cpu().clamp(0, 1)

    def batches(self, cases: Sequence[Case]) -> Iterator[tuple[Case, ...]]:
        """Cut cases into batches of the spec's size."""
        for start in range(0, len(cases), self.spec.batch):
            yield tuple(cases[start : start + self.spec.batch])

    @contextmanager
    def loop_timer(self) -> Iterator[LoopTimer]:
        """Time the denoising loop of the calls inside."""
        timer = LoopTimer(self.device)
        handles = [
            self.pipe.transformer.register_forward_pre_hook(timer.before),
            self.pipe.transformer.register_forward_hook(timer.after),
        ]
        try:
            yield timer
        finally:
            for handle in handles:
                handle.remove()


class LoopTimer:
    """Seconds from the first transformer call's start to the last one's end, synchronised."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._first: float | None = None
        self._last = 0.0

    def before(self, *_: object) -> None:
        """At every call's start."""
        if self._first is None:
            self._synchronise()
            self._first = time.perf_counter()

    def after(self, *_: object) -> None:
        """At every call's end."""
        self._last = time.perf_counter()

    def take(self) -> float:
        """Return the loop's seconds and start afresh."""
        if self._cuda:
            self._synchronise()
            self._last = time.perf_counter()
        if self._first is None:
            raise RuntimeError("the transformer was not called")
        seconds, self._first = self._last - self._first, None
        return seconds

    def _synchronise(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


# pipeline class -> the argument that takes the prompts of a batch
_ARGUMENTS = {"DiTPipeline": "class_labels"}
