"""Requests to tiny pipelines of every family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from autotune.scoring.case import Case
from autotune.scoring.pipeline import ModelSpec, PipelineRunner

STEPS = 4
CASES = (Case("three", 1), Case("seven moving right", 2))
REQUESTS: dict[str, dict[str, Any]] = {
    "flux": {"height": 8, "width": 12, "arguments": {"max_sequence_length": 8}},
    "hunyuan": {
        "height": 16,
        "width": 16,
        "num_frames": 9,
        "arguments": {"prompt_template": {"template": "<s>{}", "crop_start": 0}, "max_sequence_length": 8},
    },
    "wan": {
        "height": 16,
        "width": 32,
        "num_frames": 5,
        "arguments": {"negative_prompt": "four", "max_sequence_length": 8},
    },
}
REQUESTS["wan22"] = REQUESTS["wan"]
SHAPES = {
    "flux": ((2, 3, 8, 12), (2, 6, 16)),
    "hunyuan": ((2, 9, 1, 16, 16), (2, 4, 3, 4, 4)),
    "wan": ((2, 5, 3, 16, 32), (2, 4, 2, 2, 4)),
    "wan22": ((2, 5, 3, 16, 32), (2, 4, 2, 2, 4)),
}
CALLS = {"flux": 1, "hunyuan": 1, "wan": 2, "wan22": 2}  # a step
Load = Callable[[str], PipelineRunner]
Specs = dict[str, ModelSpec]
