"""Which model is run and how a request looks; and the identity of a local folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xslim.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Memory:
    """How the VAE saves memory.

    Attributes:
        vae_tiling: decode tile by tile; changes pixels slightly where tiles meet.
        vae_slicing: decode sample by sample.
    """

    vae_tiling: bool = False
    vae_slicing: bool = False


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model is run, and how a request looks. `asdict` gives JSON.

    Attributes:
        path: a diffusers folder, or a hub id.
        num_steps: denoising steps of the reference configuration.
        guidance_scale: the call's `guidance_scale`; None leaves the pipeline's default.
        dtype: `float32`, `bfloat16` or `float16`.
        device: such as `cpu` or `cuda`; `auto` takes a GPU when there is one.
        batch: pictures or clips drawn at once, the same for references and candidates.
        height: of a picture in pixels; None leaves the pipeline's default, as for width and num_frames.
        width: of a picture in pixels.
        num_frames: frames of a clip.
        arguments: further keyword arguments of the pipeline's call, plain JSON values.
        component_dtypes: component -> dtype, where it is not `dtype`; such as {"vae": "float32"}.
        revision: branch, tag or commit of a hub id.
        variant: of the weight files, such as `fp16`.
        offload: `none`, `model`, `sequential` or `group`, as diffusers has them.
        memory: how the VAE saves memory.
        attention_backend: diffusers' name of a backend; None leaves its default.
        compile: mode of `torch.compile` for the repeated blocks; None runs eagerly.
    """

    path: str
    num_steps: int
    guidance_scale: float | None = None
    dtype: str = "float32"
    device: str = "auto"
    batch: int = 8
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    component_dtypes: dict[str, str] = field(default_factory=dict)
    revision: str | None = None
    variant: str | None = None
    offload: str = "none"
    memory: Memory = Memory()
    attention_backend: str | None = None
    compile: str | None = None


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
