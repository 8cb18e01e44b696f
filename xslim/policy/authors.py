"""X-Slim as its authors released it: their schedules, and their offline tuner.

Source: arXiv:2512.12604 and its released code. The schedules are data; the tuner below does not give
them (a mode with more token than block refreshes cannot come from its rule).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from statistics import fmean, median
from typing import Literal

from pydantic import Field

from xslim.errors import ConfigError
from xslim.policy.decision import Action
from xslim.policy.document import Document, parse_yaml, suggest
from xslim.policy.policy import KindThresholds, Policy

FIRST_SKIPPABLE = 4  # the authors' `start`: the steps before it are always full
STABLE_ACTIONS = (Action.FULL, Action.BLOCK, Action.TOKEN)  # of the stable full steps, in turn

Threshold = Literal["mean", "median"] | float


class Mode(Document):
    """One published schedule: a letter a step, and the share of tokens that a T step recomputes."""

    steps: str
    token_ratio: float | None = None


class AuthorSchedules(Document):
    """What the authors published for one model.

    Attributes:
        block_threshold: depth-accumulated mean |h_out - h_in| below which blocks are replayed.
        start_block: blocks 0..start_block of each kind are always recomputed.
        modes: schedules by name; empty when none was published.
        published: mode -> the authors' measurements; `speedup` is a latency ratio on one device.
    """

    block_threshold: KindThresholds | None = None
    start_block: int = 3
    modes: dict[str, Mode]
    published: dict[str, dict[str, float]] = Field(default_factory=dict)


@cache
def author_schedules() -> dict[str, AuthorSchedules]:
    """Return everything that the authors published, by model."""
    file = resources.files("xslim.policy").joinpath("schedules", "x-slim.yaml")
    data = parse_yaml(file.read_text(encoding="utf-8"), source=file.name)
    if not isinstance(data, dict):
        raise ConfigError("not a mapping of models", source=file.name)
    return {model: AuthorSchedules.parse(entry, f"{file.name}: {model}") for model, entry in data.items()}


def author_policy(model: str, mode: str) -> Policy:
    """Return one of the authors' schedules as a policy with `parity: authors`.

    Args:
        model: `flux.1-dev` or `hunyuanvideo`.
        mode: `slow` or `fast`, or `S-slow`, `S-fast`: full steps and skips only.

    Raises:
        ConfigError: no schedule was published under these names.
    """
    known = author_schedules()
    published = [name for name, entry in known.items() if entry.modes]
    if model not in published:
        problem = "whose schedules were never published" if model in known else "unknown"
        raise ConfigError(f"got {model!r}, {problem}; {suggest(model, published)}", key="model")
    entry = known[model]
    if mode not in entry.modes:
        raise ConfigError(f"got {mode!r}; {suggest(mode, entry.modes)}", key="mode")
    chosen = entry.modes[mode]
    return Policy.parse(
        {
            "controller": {"kind": "pattern", "steps": chosen.steps},
            "block": {"threshold": entry.block_threshold, "start_block": entry.start_block},
            "token": {"age_weight": 0.0, **_given(budget=chosen.token_ratio)},
            "predictor": {"kind": "hold"},
            "parity": "authors",
        }
    )


def _given(**values: float | None) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None}


# the offline tuner


def threshold_of(values: Sequence[float], threshold: Threshold) -> float:
    """Return a threshold given as a number, or as the mean or the median of a profiled curve.

    The authors' defaults: the mean of the step curve for steps; for blocks, per kind, the median over
    depth of mean |h_out - h_in| averaged over the steps.
    """
    if threshold == "mean":
        return fmean(values)
    return median(values) if threshold == "median" else threshold


def coarse_steps(
    curve: Sequence[float],
    threshold: Threshold = "mean",
    start: int = FIRST_SKIPPABLE,
    end: int | None = None,
) -> tuple[int, ...]:
    """Return the steps to compute, the authors' first stage.

    A step is skipped while the change accumulated since the last computed step stays below the
    threshold; the change of the step that reaches it is dropped.

    Args:
        curve: mean |change of the stack's residual| from step i to i + 1, one value fewer than steps.
        threshold: a number, or how to take it from the curve.
        start: first step that may be skipped.
        end: last step that may be skipped; without it the last but one.
    """
    limit = threshold_of(curve, threshold)
    first, last = _skippable(len(curve) + 1, start, end)
    computed, total = [0], 0.0
    for i, change in enumerate(curve):
        total = total + change if first <= i <= last else limit
        if total >= limit:
            computed.append(i + 1)
            total = 0.0
    return tuple(computed)


def stable_span(
    curve: Sequence[float], start: int = FIRST_SKIPPABLE, end: int | None = None
) -> tuple[int, int] | None:
    """Return the steps [first, behind the last) between the curve's fast start and its fast end, or None.

    Args:
        curve: as for `coarse_steps`.
        start: as for `coarse_steps`.
        end: as for `coarse_steps`.
    """
    middle = median(curve)
    first, last = _skippable(len(curve) + 1, start, end)
    inside = range(first, last + 1)
    below = next((i for i in inside if curve[i] < middle), None)
    above = next((i for i in reversed(inside) if curve[i] > middle), None)
    return None if below is None or above is None or below >= above else (below + 1, above)


def tune_offline(
    curve: Sequence[float],
    threshold: Threshold = "mean",
    start: int = FIRST_SKIPPABLE,
    end: int | None = None,
) -> str:
    """Return the pattern that the authors' offline tuner gives: one letter a step.

    The second stage refines what `coarse_steps` computes: of the steps in the stable span whose change
    is at most the median, the second of every three becomes a block refresh and the third a token
    refresh.

    Args:
        curve: as for `coarse_steps`.
        threshold: as for `coarse_steps`.
        start: as for `coarse_steps`.
        end: as for `coarse_steps`.
    """
    letters = [Action.SKIP] * (len(curve) + 1)
    computed = coarse_steps(curve, threshold, start, end)
    for step in computed:
        letters[step] = Action.FULL
    middle, span = median(curve), stable_span(curve, start, end)
    stable = [s for s in computed if span and span[0] <= s < span[1] and curve[s - 1] <= middle]
    for turn, step in enumerate(stable):
        letters[step] = STABLE_ACTIONS[turn % len(STABLE_ACTIONS)]
    return "".join(letters)


def _skippable(steps: int, start: int, end: int | None) -> tuple[int, int]:
    """First and last index of the curve whose step may be skipped."""
    last_step = min(end or steps - 2, steps - 1)
    return max(1, start) - 1, min(steps - 2, last_step - 1)
