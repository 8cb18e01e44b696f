"""How a pipeline is called, found from the signature of its `__call__`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from autotune.scoring.case import Case
from autotune.scoring.pipeline.spec import ModelSpec
from xslim.errors import ConfigError
from xslim.policy.document import describe, suggest

PROMPTS = ("class_labels", "prompt")  # the argument that takes the prompts of a batch
SHAPES = ("guidance_scale", "height", "width", "num_frames")  # keys of the spec that the call may take
# a text for these is meant for every case of a batch
PER_CASE = re.compile(r"negative_prompt|(negative_)?prompt_\d+")
# arguments that the runner gives, or that no file can hold
NOT_FREE = re.compile(
    r"self|kwargs|class_labels|prompt|generator|num_inference_steps|output_type|return_dict|latents|callback.*"
    r"|num_(images|videos)_per_prompt|.*_embeds(_mask)?|.*_attention_mask|(negative_)?ip_adapter_.*"
)
# (1 + ratio * latent frames) frames; each pipeline calls the ratio its own way
TEMPORAL_RATIOS = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")
SPATIAL_RATIOS = ("vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")
# what the pipelines' check_inputs asks of a side: a multiple of so many latents, or of so many pixels
SIDE_LATENTS = {"FluxPipeline": 2, "QwenImagePipeline": 2}
SIDE_PIXELS = {"HunyuanVideoPipeline": 16, "WanPipeline": 16}
SIGMAS = "sigmas"  # argument of the call that takes noise levels
OWN_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
TEXT = "max_sequence_length"
MAX_TEXT = {"FluxPipeline": 512, "QwenImagePipeline": 1024}  # as check_inputs has it, too


def check_request(spec: ModelSpec, pipeline: type) -> str:
    """Check a spec against a pipeline's class; return the argument that takes the prompts of a batch.

    Raises:
        ConfigError: the pipeline takes no prompts or labels, or does not know an argument.
    """
    known = inspect.signature(pipeline.__call__).parameters
    found = next((name for name in PROMPTS if name in known), None)
    if found is None:
        raise ConfigError(f"got a {pipeline.__name__}, whose call takes no prompt", key="model.path")
    shapes = [name for name in SHAPES if name in known]
    free = [name for name in known if name not in SHAPES and not NOT_FREE.fullmatch(name)]
    given = [("model", name, shapes) for name in SHAPES if getattr(spec, name) is not None]
    given += [("model.arguments", name, free) for name in spec.arguments]
    for section, name, allowed in given:
        if name not in allowed:
            remedy = suggest(name, allowed) if allowed else "remove it"
            problem = f"{pipeline.__name__} takes no such argument here; {remedy}"
            raise ConfigError(problem, key=f"{section}.{name}")
    return found


def check_sizes(spec: ModelSpec, pipeline: type, space: int, time: int) -> None:
    """Refuse sizes that the pipeline would refuse, or change.

    Args:
        spec: of the request.
        pipeline: its class.
        space: pixels of a side to a latent.
        time: frames to a latent frame.

    Raises:
        ConfigError: names the nearest that are allowed.
    """
    _check_frames(spec, pipeline, time)
    name = pipeline.__name__
    multiple = SIDE_PIXELS.get(name, space * SIDE_LATENTS.get(name, 1))
    for key, side in (("height", spec.height), ("width", spec.width)):
        if side is not None and side % multiple:
            low = side // multiple * multiple
            near = f"{low} or {low + multiple}" if low else str(multiple)
            raise ConfigError(
                f"got {side}; {name} draws multiples of {multiple} pixels, such as {near}", key=f"model.{key}"
            )
    length, most = spec.arguments.get(TEXT), MAX_TEXT.get(name)
    if TEXT in spec.arguments and not (isinstance(length, int) and 1 <= length <= (most or length)):
        allowed = "a whole number from 1" + ("" if most is None else f" to {most}")
        raise ConfigError(f"got {describe(length)}; {name} takes {allowed}", key=f"model.arguments.{TEXT}")


def _check_frames(spec: ModelSpec, pipeline: type, ratio: int) -> None:
    if spec.num_frames is None or (spec.num_frames - 1) % ratio == 0:
        return
    low = (spec.num_frames - 1) // ratio * ratio + 1
    allowed = f"{ratio}k + 1 frames, such as {low} or {low + ratio}"
    raise ConfigError(f"got {spec.num_frames}; {pipeline.__name__} draws {allowed}", key="model.num_frames")


class RequestPlan:
    """The keyword arguments of a pipeline's call.

    Raises:
        ConfigError: as `check_request` and `check_sizes`.
    """

    def __init__(self, spec: ModelSpec, pipe: Any) -> None:
        self._spec, self._pipe, self._name = spec, pipe, type(pipe).__name__
        self._known = inspect.signature(pipe.__call__).parameters
        self._prompts = check_request(spec, type(pipe))
        check_sizes(spec, type(pipe), _ratio(pipe, SPATIAL_RATIOS), _ratio(pipe, TEMPORAL_RATIOS))

    @property
    def guidance_scale(self) -> float | None:
        """The call's `guidance_scale`, as given or by default; None where the call takes none."""
        if self._spec.guidance_scale is not None:
            return self._spec.guidance_scale
        default = getattr(self._known.get("guidance_scale"), "default", None)
        return float(default) if isinstance(default, int | float) else None

    def check_sigmas(self, sigmas: Sequence[float], scheduler: Any) -> None:
        """Refuse noise levels that the call, the scheduler or its range does not take.

        Raises:
            ConfigError: as said.
        """
        for name, takes in (
            (self._name, self._known),
            (type(scheduler).__name__, inspect.signature(scheduler.set_timesteps).parameters),
        ):
            if SIGMAS not in takes:
                raise ConfigError(
                    f"got {len(sigmas)} noise levels; {name} takes none, leave them out",
                    key=f"request.{SIGMAS}",
                )
        own = next((name for name in OWN_SIGMAS if scheduler.config.get(name)), None)
        if own is not None:
            raise ConfigError(
                f"got {len(sigmas)} noise levels; {type(scheduler).__name__} sets its own by {own}",
                key=f"request.{SIGMAS}",
            )
        most = vars(scheduler).get("sigma_max")
        if most is not None and sigmas[0] > float(most):
            raise ConfigError(
                f"got {sigmas[0]:g}; {type(scheduler).__name__} begins at {float(most):g} at most",
                key=f"request.{SIGMAS}.0",
            )

    def arguments(
        self, cases: Sequence[Case], num_steps: int, sigmas: Sequence[float] | None = None
    ) -> dict[str, Any]:
        """Return the arguments of the call that draws these cases.

        The noise comes from generators on the CPU, so that it is the same on every device.

        Raises:
            ConfigError: a case's prompt is of the wrong kind.
        """
        given = {name: getattr(self._spec, name) for name in SHAPES}
        extra = {
            name: [value] * len(cases) if isinstance(value, str) and PER_CASE.fullmatch(name) else value
            for name, value in self._spec.arguments.items()
        }
        return {
            self._prompts: [self._prompt(case.prompt) for case in cases],
            "num_inference_steps": num_steps,
            "generator": [torch.Generator("cpu").manual_seed(case.seed) for case in cases],
            "output_type": "pt",
            **{name: value for name, value in given.items() if value is not None},
            **extra,
            **({} if sigmas is None else {SIGMAS: np.asarray(sigmas)}),
        }

    def _prompt(self, prompt: int | str) -> int | str:
        if self._prompts == "prompt":
            if not isinstance(prompt, str):
                raise ConfigError(
                    f"got {prompt!r}; {self._name} takes texts, so put it in quotes", key="model.prompts"
                )
            return prompt
        names: dict[str, int] = getattr(self._pipe, "labels", None) or {}
        label = names.get(prompt, prompt) if isinstance(prompt, str) else prompt
        if isinstance(label, str) and label.isdecimal():
            label = int(label)
        classes = 1 + max(names.values()) if names else self._pipe.transformer.config.num_embeds_ada_norm
        if not isinstance(label, int) or not 0 <= label < classes:
            words = f", or their names, such as {min(names, key=names.__getitem__)!r}" if names else ""
            raise ConfigError(
                f"got {describe(prompt)}; this {self._name} takes class labels, whole numbers below "
                f"{classes}{words}",
                key="model.prompts",
            )
        return label


def _ratio(pipe: Any, names: Sequence[str]) -> int:
    return next((int(getattr(pipe, name)) for name in names if hasattr(pipe, name)), 1)
