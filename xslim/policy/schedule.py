"""Static schedules: what lies ahead of a step, and remapping to another number of steps."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from xslim.errors import ConfigError
from xslim.policy.controller import static_decision
from xslim.policy.decision import Action, StepInfo
from xslim.policy.policy import (
    REUSES,
    Controller,
    DualThreshold,
    Indicator,
    Interval,
    Pattern,
    Policy,
    Table,
)
from xslim.policy.prediction import Affine


def actions_before_next_full(policy: Policy, step: int, num_steps: int) -> frozenset[Action]:
    """Actions that may follow a computed step before the next full one.

    The runtime keeps block residuals only while a block refresh may come, and keys and values only
    while a token refresh may.
    """
    controller = policy.controller
    if isinstance(controller, DualThreshold):
        return frozenset({Action.SKIP, *(REUSES[name] for name in controller.polish)})
    found: set[Action] = set()
    for later in range(step + 1, num_steps):
        action = static_decision(controller, StepInfo(later, num_steps)).action
        if action is Action.FULL:
            break
        found.add(action)
    return frozenset(found)


def refreshes_blocks(policy: Policy) -> bool:
    """Whether a policy may run some blocks of a call and leave others out."""
    controller = policy.controller
    if isinstance(controller, DualThreshold):
        return "block" in controller.polish
    if isinstance(controller, Pattern):
        return Action.BLOCK in controller.steps
    if isinstance(controller, Interval):
        return Action.BLOCK in controller.reuses
    return True


def residual_is_read(policy: Policy, step: int, num_steps: int, history: int) -> bool:
    """Whether the residual of a computed step may be read by a later skip or token refresh.

    Args:
        policy: the policy.
        step: the computed step.
        num_steps: steps of the request.
        history: computed residuals that the prediction reads.
    """
    controller = policy.controller
    if isinstance(controller, DualThreshold):
        return step >= controller.warmup - history and step < num_steps - controller.cooldown - 1
    for newer, later in enumerate(range(step + 1, num_steps)):
        if newer == history:
            return False
        if static_decision(controller, StepInfo(later, num_steps)).action in (Action.SKIP, Action.TOKEN):
            return True
    return False


def compile_static(policy: Policy, actions: str) -> Policy:
    """Return the pattern that repeats what an online run did, with the same parts.

    Args:
        policy: the policy that ran; its signals are dropped, for a pattern measures none.
        actions: one letter a step, as a trace tells them.

    Raises:
        ConfigError: the actions are no valid pattern, or the policy is a table, whose block refreshes
            are lists that letters do not tell.
    """
    if isinstance(policy.controller, Table):
        raise ConfigError("got a table, which is static as it is; keep it", key="controller.kind")
    parts = {name: getattr(policy, name) for name in type(policy).model_fields}
    return Policy.parse({**parts, "controller": Pattern(steps=actions), "indicator": Indicator()})


def remap(
    policy: Policy,
    num_steps: int,
    source_sigmas: Sequence[float] | None = None,
    target_sigmas: Sequence[float] | None = None,
) -> Policy:
    """Return the policy for another number of steps.

    Each new step takes the action of the step with the nearest sigma (without sigmas: the nearest
    share of the way), and so do the tables of a corrector. Then the first and the last step are full,
    and no run of skips is longer, in steps, than the source's longest.

    Args:
        policy: any policy; only patterns, tables and correctors change.
        num_steps: steps of the request.
        source_sigmas: noise levels that the policy was made for, one a step.
        target_sigmas: noise levels of the request, one a step.
    """
    native = policy.num_steps
    if native is None or native == num_steps:
        return policy
    origin = _nearest(native, num_steps, source_sigmas, target_sigmas)
    controller, corrector = policy.controller, policy.corrector
    new: Controller = controller
    if isinstance(controller, Pattern):
        letters = [controller.steps[i] for i in origin]
        limit = _longest_run([letter == Action.SKIP for letter in controller.steps])
        for i in _forced(len(letters), [letter == Action.SKIP for letter in letters], limit):
            letters[i] = Action.FULL
        new = Pattern(steps="".join(letters))
    elif isinstance(controller, Table):
        rows = [controller.blocks[i] for i in origin]
        limit = _longest_run([not any(row) for row in controller.blocks])
        for i in _forced(len(rows), [not any(row) for row in rows], limit):
            rows[i] = (1,) * len(rows[i])
        new = Table(blocks=tuple(rows))
    moved = corrector.at(origin) if isinstance(corrector, Affine) else corrector
    return policy.model_copy(update={"controller": new, "corrector": moved})


def _nearest(
    native: int,
    num_steps: int,
    source: Sequence[float] | None,
    target: Sequence[float] | None,
) -> list[int]:
    if source is None or target is None or len(source) < native or len(target) < num_steps:
        scale = max(1, num_steps - 1)
        return [int(step * (native - 1) / scale + 0.5) for step in range(num_steps)]
    return [min(range(native), key=lambda i: (abs(source[i] - sigma), i)) for sigma in target[:num_steps]]


def _longest_run(skips: Sequence[bool]) -> int:
    return max((sum(1 for _ in run) for skip, run in groupby(skips) if skip), default=0)


def _forced(length: int, skips: Sequence[bool], limit: int) -> list[int]:
    """Steps to make full: the first, the last, and one after every `limit` skips in a row."""
    forced, run = [], 0
    for i, skip in enumerate(skips):
        run = run + 1 if skip else 0
        if i in (0, length - 1) or run > limit:
            forced.append(i)
            run = 0
    return forced
