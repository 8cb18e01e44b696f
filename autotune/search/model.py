"""The `model` part of an experiment: what is run, how a request looks, and on which prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from autotune.search.prompts import read_prompts
from xslim.errors import ConfigError
from xslim.policy.document import Document, describe

Dtype = Literal["float32", "bfloat16", "float16"]
Pixels = Annotated[int, Field(ge=8, le=16_384)]
# keys that do not tell how the model is run
NOT_OF_THE_SPEC = {"prompts", "prompts_file", "seconds_per_image", "sustained_tflops"}
# arguments of a pipeline's call that are set elsewhere, or that the measurement sets
OWN_KEYS = {
    "prompt": "prompts",
    "class_labels": "prompts",
    "num_inference_steps": "num_steps",
    "guidance_scale": "guidance_scale",
    "height": "height",
    "width": "width",
    "num_frames": "num_frames",
}
KEPT = (
    "generator",
    "output_type",
    "return_dict",
    "latents",
    "num_images_per_prompt",
    "num_videos_per_prompt",
    "callback",
    "callback_steps",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
)


class Memory(Document):
    """How the VAE saves memory: tile by tile, sample by sample."""

    vae_tiling: bool = False
    vae_slicing: bool = False


class Model(Document):
    """What is run, and on which prompts. Keys as in `ModelSpec`, and those below.

    Attributes:
        prompts: class labels or prompts.
        prompts_file: a file of prompts instead, beside the experiment or in the current directory.
        seconds_per_image: of one uncached picture or clip on one worker, measured by you; for `--dry-run`.
        sustained_tflops: what a worker computes a second, in 10^12 operations; for `--dry-run` too.
    """

    path: Annotated[str, Field(min_length=1)]
    revision: Annotated[str, Field(min_length=1)] | None = None
    variant: Annotated[str, Field(min_length=1)] | None = None
    num_steps: Annotated[int, Field(ge=2, le=10_000)] = 50
    guidance_scale: Annotated[float, Field(ge=0.0, le=100.0)] | None = None
    height: Pixels | None = None
    width: Pixels | None = None
    num_frames: Annotated[int, Field(ge=1, le=10_000)] | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    dtype: Dtype = "float32"
    component_dtypes: dict[str, Dtype] = Field(default_factory=dict)
    device: Annotated[str, Field(min_length=1)] = "auto"
    offload: Literal["none", "model", "sequential", "group"] = "none"
    memory: Memory = Memory()
    attention_backend: Annotated[str, Field(min_length=1)] | None = None
    # no mode that records CUDA graphs: they write into memory that cached features lie in
    compile: Literal["default", "max-autotune-no-cudagraphs"] | None = None
    prompts: Annotated[
        tuple[int | str, ...], Field(strict=False, min_length=1, exclude_if=lambda prompts: not prompts)
    ] = ()
    prompts_file: Annotated[str, Field(min_length=1)] | None = None
    seconds_per_image: Annotated[float, Field(gt=0)] | None = None
    sustained_tflops: Annotated[float, Field(gt=0)] | None = None

    @field_validator("prompts")
    @classmethod
    def _check_prompts(cls, prompts: tuple[int | str, ...]) -> tuple[int | str, ...]:
        seen: dict[int | str, int] = {}
        for i, prompt in enumerate(prompts):
            if isinstance(prompt, str) and not prompt.strip():
                raise ConfigError("empty; write a prompt or remove it", key=str(i))
            if prompt in seen:
                raise ConfigError(
                    f"got {describe(prompt)} again, as prompts.{seen[prompt]}; remove one", key=str(i)
                )
            seen[prompt] = i
        return prompts

    @field_validator("arguments")
    @classmethod
    def _check_arguments(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, value in arguments.items():
            if name in OWN_KEYS:
                raise ConfigError(f"not here; set model.{OWN_KEYS[name]}", key=name)
            if name in KEPT:
                raise ConfigError("the measurement sets it; remove it", key=name)
            try:
                json.dumps(value, allow_nan=False)
            except (TypeError, ValueError, RecursionError):
                raise ConfigError(f"got {describe(value)}; allowed are plain YAML values", key=name) from None
        return arguments

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.prompts) is (self.prompts_file is not None):
            problem = "both are given; keep" if self.prompts else "neither is given; write"
            raise ConfigError(f"{problem} one of prompts and prompts_file", key="prompts")
        return self

    def with_prompts(self, source: str | Path | None) -> Model:
        """Return the model with its prompts read from their file, if they are in one.

        Args:
            source: the experiment's file, beside which the prompts' file is looked for first.

        Raises:
            ConfigError: the file is missing or at fault.
        """
        if self.prompts_file is None:
            return self
        here = Path(self.prompts_file)
        beside = here if source is None else Path(source).parent / here
        path = beside if beside.exists() else here
        if not path.exists():
            raise ConfigError(
                f"got {self.prompts_file!r}, which is no file; give a path from the experiment's folder or "
                "from the current one",
                key="model.prompts_file",
            )
        prompts = read_prompts(path)
        return self.model_copy(update={"prompts": prompts, "prompts_file": None})
