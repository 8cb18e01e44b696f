"""The controller: a pure function from policy, state and readings to a decision.

Source: arXiv:2512.12604 (push then polish between two thresholds). The online estimate of the
error, a weighted sum of calibrated signals, is ours: the published code runs fixed lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from xslim.policy.calibration import Calibration, Polynomial
from xslim.policy.decision import Action, Decision, StepInfo
from xslim.policy.policy import DualThreshold, Interval, Pattern, Policy, Table

Reading = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ControllerState:
    """What the controller remembers of one sample and branch.

    Attributes:
        computed: at least one step was computed, so there is something to reuse.
        err: accumulated error estimate since the last full step.
        skips: consecutive skips.
        refreshes: block and token refreshes since the last full step.
        reuses: steps since the last full step, skips and refreshes together.
        full_at: the last full step.
    """

    computed: bool = False
    err: float = 0.0
    skips: int = 0
    refreshes: int = 0
    reuses: int = 0
    full_at: int = 0


FRESH = ControllerState()


def decide(
    policy: Policy, state: ControllerState, info: StepInfo, reading: Reading
) -> tuple[Decision, ControllerState]:
    """Decide what one sample does at one step.

    Args:
        policy: the policy.
        state: the sample's state, `FRESH` at the start of a request.
        info: the step.
        reading: raw signals by name. `residual_health` is 0 when the last residual was finite.

    Returns:
        The decision and the state for the next step.
    """
    decision = _guard(policy, state, info, reading) or _rule(policy, state, info, reading)
    return decision, _advance(state, decision, info)


def _advance(state: ControllerState, decision: Decision, info: StepInfo) -> ControllerState:
    if decision.action is Action.FULL:
        return ControllerState(computed=True, full_at=info.step)
    after = replace(state, err=decision.err, reuses=state.reuses + 1)
    if decision.action is Action.SKIP:
        return replace(after, skips=state.skips + 1)
    return replace(after, skips=0, refreshes=state.refreshes + 1)


def _guard(policy: Policy, state: ControllerState, info: StepInfo, reading: Reading) -> Decision | None:
    """Rules that come before any schedule or threshold."""
    if not state.computed:
        return Decision(Action.FULL, "first step")
    if any(not math.isfinite(value) for value in reading.values()):
        return Decision(Action.FULL, "nonfinite", nonfinite=True)
    if info.sigma is not None:
        for low, high in policy.guards.sigma_windows:
            if low <= info.sigma <= high:
                return Decision(Action.FULL, "sigma window")
    return None


def _rule(policy: Policy, state: ControllerState, info: StepInfo, reading: Reading) -> Decision:
    controller = policy.controller
    if isinstance(controller, DualThreshold):
        return _dual_threshold(policy, controller, state, info, reading)
    return static_decision(controller, info)


def static_decision(controller: Pattern | Interval | Table, info: StepInfo) -> Decision:
    """What a static controller does at a step; beyond its end every step is full."""
    if isinstance(controller, Interval):
        return Decision(controller.action(info.step, info.num_steps), "interval")
    if isinstance(controller, Pattern):
        if info.step >= len(controller.steps):
            return Decision(Action.FULL, "beyond schedule")
        return Decision(Action(controller.steps[info.step]), "pattern")
    if info.step >= len(controller.blocks):
        return Decision(Action.FULL, "beyond schedule")
    row = tuple(flag == 1 for flag in controller.blocks[info.step])
    if all(row):
        return Decision(Action.FULL, "table")
    return Decision(Action.BLOCK if any(row) else Action.SKIP, "table", compute_blocks=row)


def error_growth(policy: Policy, state: ControllerState, info: StepInfo, reading: Reading) -> float | None:
    """Weighted sum of the calibrated signals; None while a signal has no value yet."""
    total = 0.0
    for name in policy.indicator.used:
        value = _calibrated(name, policy.indicator.calibration.get(name), state, info, reading)
        if value is None:
            return None
        total += policy.indicator.signals[name] * value
    return total


def _calibrated(
    name: str,
    calibration: Calibration | Polynomial | None,
    state: ControllerState,
    info: StepInfo,
    reading: Reading,
) -> float | None:
    """Growth of the error by one signal; None while it has no value."""
    if name in TABLES and isinstance(calibration, Calibration):
        return TABLES[name](calibration, state, info)
    value = reading.get(name)
    return value if value is None or calibration is None else calibration(value)


def _step_table(table: Calibration, state: ControllerState, info: StepInfo) -> float:
    """The profiled change of the residual at this step."""
    return table(info.progress) / info.num_steps


def _gamma(table: Calibration, state: ControllerState, info: StepInfo) -> float:
    """How far the residual's size has moved since the last full step: |1 - product of the gammas|.

    Source: MagCache, arXiv:2506.09045; the table holds the running product, so that the product over
    any steps is a quotient, and a table made for 50 steps serves 20.
    """
    kept = table(replace(info, step=state.full_at).progress)
    return abs(1 - table(info.progress) / max(kept, 1e-12))


TABLES: Mapping[str, Callable[[Calibration, ControllerState, StepInfo], float]] = {
    "step_table": _step_table,
    "gamma": _gamma,
}


def _dual_threshold(
    policy: Policy, rule: DualThreshold, state: ControllerState, info: StepInfo, reading: Reading
) -> Decision:
    if info.step < rule.warmup:
        return Decision(Action.FULL, "warm-up")
    if info.step >= info.num_steps - rule.cooldown:
        return Decision(Action.FULL, "cool-down")
    growth = error_growth(policy, state, info, reading)
    if growth is None:
        return Decision(Action.FULL, "no signal yet")
    if not math.isfinite(growth):  # of a polynomial far outside of where it was fitted
        return Decision(Action.FULL, "nonfinite", nonfinite=True)
    err = growth if policy.indicator.accumulate == "latest" else state.err + growth
    if err >= rule.critical:
        return Decision(Action.FULL, "critical")
    if rule.max_consecutive_reuses is not None and state.reuses >= rule.max_consecutive_reuses:
        return Decision(Action.FULL, "reuse limit")
    if err < rule.warning or not rule.polish:
        limit = rule.max_consecutive_skips
        if limit is not None and state.skips >= limit:
            return Decision(Action.FULL, "skip limit")
        return Decision(Action.SKIP, "push", err)
    if rule.polish[state.refreshes % len(rule.polish)] == "block":
        return Decision(Action.BLOCK, "polish", err * (1 - rule.relief.block))
    return Decision(Action.TOKEN, "polish", err * (1 - rule.relief.token))
