"""How numbers, metrics and policies are called and written, in tables, pages and plots."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from autotune.search.objective import METRIC_NAMES, METRIC_OF, PAIRED_NAMES, tail_name
from xslim.policy.policy import Policy

# scalars that say how good pictures are, in the order of columns and choices
QUALITY = (
    "lpips",
    "lpips_p95",
    "psnr",
    "psnr_p5",
    "ssim",
    "ssim_p5",
    "fid",
    "kid",
    "cmmd",
    "clip_score",
    "image_reward",
)
REST = tuple(
    name
    for metric in PAIRED_NAMES
    for name in (metric, tail_name(metric))
    if name not in QUALITY and metric not in ("clip_score", "image_reward")
)
COSTS = ("speedup", "compute_fraction")
FORMS = {
    "speedup": "{:.2f}x",
    "compute_fraction": "{:.3f}",
    "psnr": "{:.1f} dB",
    "ssim": "{:.3f}",
    "lpips": "{:.4f}",
    "fid": "{:.2f}",
}
TITLES = {
    "speedup": "measured speedup of the denoising loop, paired (x)",
    "compute_fraction": "compute fraction (MACs over uncached MACs)",
}
ACTIONS = {"F": "full", "B": "block refresh", "T": "token refresh", ".": "skip"}
MIB = 2**20
SHOWN_CHARACTERS = 120  # of a policy's letters or a configuration


def column_title(name: str, nets: Mapping[str, str]) -> str:
    """A column's title: the printed name of a metric with a network, `p95` beside its mean."""
    metric, _, tail = name.partition("_p")
    if tail and metric in nets:
        return f"p{tail}"
    return nets.get(name, f"{metric.upper()} p{tail}" if tail else name)


def metric_title(name: str, nets: Mapping[str, str]) -> str:
    """A metric's name where it stands alone: `lpips_digits p95`, `PSNR p5 (dB)`."""
    metric = METRIC_OF.get(name, name)
    tail = name.removeprefix(f"{metric}_") if name != metric else ""
    plain = nets.get(metric, metric if "_" in metric else metric.upper())
    unit = " (dB)" if metric.startswith("psnr") else ""
    return f"{plain} {tail}".rstrip() + unit


def larger_is_better(name: str) -> bool:
    """Whether more of a scalar is better."""
    return name == "speedup" or METRIC_NAMES.get(METRIC_OF.get(name, name), False)


def number(name: str, value: float | None) -> str:
    """A scalar as people read it."""
    if value is None:
        return ""
    if name == "memory":
        return f"{value / MIB:.1f} MiB"
    form = FORMS.get(name) or FORMS.get(METRIC_OF.get(name, name), "{:.4g}")
    return form.format(value)


def measured(names: Iterable[str]) -> list[str]:
    """Those of the qualities that are among some names, in the order they are shown."""
    found = set(names)
    return [name for name in (*QUALITY, *REST) if name in found]


def shortened(text: str, length: int = SHOWN_CHARACTERS) -> str:
    """A text with its end cut off where it is long."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def plain(value: Any) -> str:
    """A value of a configuration in few characters."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def settings(config: Mapping[str, Any]) -> str:
    """A configuration in one line."""
    return shortened(", ".join(f"{key}={plain(value)}" for key, value in config.items()))


def describe(policy: Policy) -> str:
    """A policy in one line."""
    predictor: str = policy.predictor.kind
    if predictor in ("newton", "taylor"):
        predictor += f" {policy.predictor.order}"
        if policy.predictor.order > 1 and policy.predictor.curvature != 1.0:
            predictor += f" with {policy.predictor.curvature:.3g} of its curvature"
    controller = policy.controller
    if controller.kind == "pattern":
        return f"pattern {controller.steps}, {predictor}"
    if controller.kind == "dual-threshold":
        polish = "+".join(controller.polish) or "none"
        return (
            f"dual-threshold: skip below {controller.warning:.3g}, polish ({polish}) to "
            f"{controller.critical:.3g}, then compute; {predictor}"
        )
    if controller.kind == "interval":
        between = "+".join(controller.between)
        return f"interval of {controller.every}, {between} between, {predictor}"
    return f"{controller.kind}, {predictor}"
