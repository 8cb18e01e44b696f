"""Loading a pipeline as a spec says: dtype, offloading, memory, attention, compiled blocks."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from autotune.scoring.pipeline.spec import ModelSpec, check_model_folder
from xslim.errors import ConfigError
from xslim.policy.document import suggest

LOADING_ERRORS = (OSError, ValueError, KeyError, AttributeError, TypeError, RuntimeError, SafetensorError)


def load(spec: ModelSpec) -> tuple[Any, torch.device]:
    """Load the pipeline; return it and the device that it computes on.

    Raises:
        ConfigError: it cannot be loaded, or a setting does not fit it or this machine.
    """
    from diffusers import DiffusionPipeline

    check_model_folder(spec.path)
    device = _device(spec)
    try:
        with quiet(), warnings.catch_warnings():  # 0.42 calls it dtype, which 0.41 does not know
            warnings.filterwarnings("ignore", ".*torch_dtype", FutureWarning)
            pipe: Any = DiffusionPipeline.from_pretrained(
                spec.path, torch_dtype=_dtype(spec), revision=spec.revision, variant=spec.variant
            )
    except LOADING_ERRORS as error:
        raise ConfigError(f"got {spec.path!r}, cannot load it: {_line(error)}", key="model.path") from None
    if not transformers(pipe):
        raise ConfigError(f"got a {type(pipe).__name__}, which has no transformer", key="model.path")
    pipe.set_progress_bar_config(disable=True)
    _check_components(spec, pipe)
    _save_memory(spec, pipe)
    _choose_attention(spec, pipe)
    _compile(spec, pipe)
    return place(spec, pipe, device), device


@contextmanager
def quiet() -> Iterator[None]:
    """Let transformers tell errors only; and show progress bars on terminals alone.

    It warns of every processor for which torchvision, which nothing here needs, would be faster.
    """
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    shown: list[Any] = [
        bars
        for bars in (of_diffusers, of_transformers)
        if not sys.stderr.isatty() and bars.is_progress_bar_enabled()
    ]
    for bars in shown:
        bars.disable_progress_bar()
    told = of_transformers.get_verbosity()
    of_transformers.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        of_transformers.set_verbosity(told)
        for bars in shown:
            bars.enable_progress_bar()


def transformers(pipe: Any) -> list[Any]:
    """Return the denoisers of a pipeline; some, such as Wan 2.2, have two."""
    return [
        part
        for name, part in pipe.components.items()
        if name.startswith("transformer") and isinstance(part, nn.Module)
    ]


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _device(spec: ModelSpec) -> torch.device:
    name = spec.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"got {name!r}; allowed: auto, cpu, cuda, cuda:N", key="model.device") from None
    if spec.offload != "none" and device.type == "cpu":
        raise ConfigError(
            f"got {spec.offload!r}, but the model runs on the CPU; set it to none, or run where a GPU is",
            key="model.offload",
        )
    return device


def _dtype(spec: ModelSpec) -> Any:
    default = getattr(torch, spec.dtype)
    if not spec.component_dtypes:
        return default
    return {name: getattr(torch, dtype) for name, dtype in spec.component_dtypes.items()} | {
        "default": default
    }


def _check_components(spec: ModelSpec, pipe: Any) -> None:
    for name in spec.component_dtypes:
        if not isinstance(pipe.components.get(name), nn.Module):
            known = [part for part, value in pipe.components.items() if isinstance(value, nn.Module)]
            raise ConfigError(
                f"{type(pipe).__name__} has no such model; {suggest(name, known)}",
                key=f"model.component_dtypes.{name}",
            )


def _save_memory(spec: ModelSpec, pipe: Any) -> None:
    vae = getattr(pipe, "vae", None)
    for way, wanted in (("tiling", spec.memory.vae_tiling), ("slicing", spec.memory.vae_slicing)):
        if not wanted:
            continue
        if not hasattr(vae, f"use_{way}"):  # as diffusers itself asks
            raise ConfigError(f"{type(vae).__name__} cannot; set it to false", key=f"model.memory.vae_{way}")
        getattr(vae, f"enable_{way}")()


def _choose_attention(spec: ModelSpec, pipe: Any) -> None:
    if spec.attention_backend is None:
        return
    for transformer in transformers(pipe):
        try:
            transformer.set_attention_backend(spec.attention_backend)
        except (ValueError, RuntimeError, ImportError, AttributeError) as error:
            raise ConfigError(
                f"got {spec.attention_backend!r}: {_line(error)}", key="model.attention_backend"
            ) from None


def _compile(spec: ModelSpec, pipe: Any) -> None:
    if spec.compile is None:
        return
    for transformer in transformers(pipe):
        try:
            transformer.compile_repeated_blocks(mode=spec.compile)
        except (ValueError, AttributeError):
            raise ConfigError(
                f"{type(transformer).__name__} names no repeated blocks to compile; set it to null",
                key="model.compile",
            ) from None


def place(spec: ModelSpec, pipe: Any, device: torch.device) -> Any:
    """Move a pipeline to its device, or offload it as the spec says; return it."""
    if spec.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif spec.offload == "sequential":
        pipe.enable_sequential_cpu_offload(device=device)
    elif spec.offload == "group":
        # no stream: its prefetching counts on every block being called, and cached steps skip blocks
        pipe.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1)
    else:
        pipe.to(device)
    return pipe
