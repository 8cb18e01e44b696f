"""How a pipeline is called, found from the signature of its `__call__`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import torch

from autotune.scoring.case import Case
from autotune.scoring.pipeline.spec import ModelSpec
from xslim.errors import ConfigError
from xslim.policy.document import describe, suggest

PROMPTS = ("class_labels", "prompt")  # the argument that takes the prompts of a batch
SHAPES = ("guidance_scale", "height", "width", "num_frames")  # keys of the spec that the call may take
# a text for these is meant for every case of a batch
PER_CASE = re.compile(r"negative_prompt|(negative_)?prompt_\d+")
# arguments that the runner gives, or that no file can hold; not suggested
NOT_FREE = re.compile(
    r"self|kwargs|class_labels|prompt|generator|num_inference_steps|output_type|return_dict|latents|callback.*"
    r"|num_(images|videos)_per_prompt|.*_embeds(_mask)?|.*_attention_mask|(negative_)?ip_adapter_.*"
)
# (1 + ratio * latent frames) frames; each pipeline calls the ratio its own way
TEMPORAL_RATIOS = ("vae_scale_factor_temporal", "vae_temporal_compression_ratio", "vae_temporal_scale_factor")


def check_request(spec: ModelSpec, pipeline: type) -> str:
    """Check a spec against a pipeline's class; return the argument that takes the prompts of a batch.

    Raises:
        ConfigError: the pipeline takes no prompts or labels, or does not know an argument.
    """
    known = inspect.signature(pipeline.__call__).parameters
    found = next((name for name in PROMPTS if name in known), None)
    if found is None:
        raise ConfigError(f"got a {pipeline.__name__}, whose call takes no prompt", key="model.path")
    given = {f"model.{name}": name for name in SHAPES if getattr(spec, name) is not None}
    given |= {f"model.arguments.{name}": name for name in spec.arguments}
    for key, name in given.items():
        if name in known and name not in (*PROMPTS, "self", "kwargs"):
            continue
        free = [name for name in known if not NOT_FREE.fullmatch(name)]
        raise ConfigError(f"{pipeline.__name__} takes no such argument; {suggest(name, free)}", key=key)
    return found


def check_frames(spec: ModelSpec, pipeline: type, ratio: int) -> None:
    """Refuse a number of frames that no number of latent frames gives.

    Raises:
        ConfigError: names the nearest that are allowed.
    """
    if spec.num_frames is None or (spec.num_frames - 1) % ratio == 0:
        return
    low = (spec.num_frames - 1) // ratio * ratio + 1
    allowed = f"{ratio}k + 1 frames, such as {low} or {low + ratio}"
    raise ConfigError(f"got {spec.num_frames}; {pipeline.__name__} draws {allowed}", key="model.num_frames")


class RequestPlan:
    """The keyword arguments of a pipeline's call.

    Raises:
        ConfigError: as `check_request` and `check_frames`.
    """

    def __init__(self, spec: ModelSpec, pipe: Any) -> None:
        self._spec, self._pipe, self._name = spec, pipe, type(pipe).__name__
        self._known = inspect.signature(pipe.__call__).parameters
        self._prompts = check_request(spec, type(pipe))
        ratios = [getattr(pipe, name) for name in TEMPORAL_RATIOS if hasattr(pipe, name)]
        check_frames(spec, type(pipe), ratios[0] if ratios else 1)

    @property
    def guidance_scale(self) -> float | None:
        """The call's `guidance_scale`, as given or by default; None where the call takes none."""
        if self._spec.guidance_scale is not None:
            return self._spec.guidance_scale
        default = getattr(self._known.get("guidance_scale"), "default", None)
        return float(default) if isinstance(default, int | float) else None

    def arguments(self, cases: Sequence[Case], num_steps: int) -> dict[str, Any]:
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
        }

    def _prompt(self, prompt: int | str) -> int | str:
        if self._prompts == "prompt":
            if not isinstance(prompt, str):
                raise ConfigError(
                    f"got {prompt!r}; {self._name} takes texts, so put it in quotes", key="model.prompts"
                )
            return prompt
        labels = getattr(self._pipe, "labels", None) or {}
        label = labels.get(prompt, prompt)
        if isinstance(label, str) and label.isdecimal():
            label = int(label)
        classes = getattr(self._pipe.transformer.config, "num_embeds_ada_norm", None)
        if not isinstance(label, int) or label < 0 or (classes is not None and label >= classes):
            below = "" if classes is None else f" below {classes}"
            raise ConfigError(
                f"got {describe(prompt)}; {self._name} takes class labels, whole numbers{below}",
                key="model.prompts",
            )
        return label
