"""What a policy does at every step, found without the model: the runtime's own rules, no tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xslim.errors import ConfigError
from xslim.policy.controller import FRESH, decide
from xslim.policy.decision import Action, Decision, StepInfo
from xslim.policy.policy import LETTERS, DualThreshold, Policy, Table
from xslim.policy.schedule import actions_before_next_full, remap, residual_is_read


@dataclass(frozen=True, slots=True)
class Done:
    """What one call of the transformer does; the same for all its samples.

    Attributes:
        action: the action that runs, which may be full where the policy asks for less.
        flags: of a table's block refresh, one flag a block; else None.
        selected_at: for other block refreshes, the full step whose changes choose the blocks.
        keeps: actions that may follow before the next full step.
        pushed: residuals of the stack that were kept when the step began.
    """

    action: Action
    flags: tuple[bool, ...] | None
    selected_at: int | None
    keeps: frozenset[Action]
    pushed: int


class _Branch:
    """What a guidance branch holds between its steps, counted instead of kept."""

    def __init__(self, policy: Policy, num_steps: int, holds_tokens: bool) -> None:
        self._policy = policy
        self._num_steps = num_steps
        self._holds_tokens = holds_tokens
        self._table = isinstance(policy.controller, Table)
        self.keeps = [actions_before_next_full(policy, step, num_steps) for step in range(num_steps)]
        refreshes = any(Action.TOKEN in kept for kept in self.keeps)
        self._capacity = max(policy.history, policy.token.history if refreshes else 1)
        self._keys_values = False
        self.residuals = 0
        self.selected_at: int | None = None

    def can(self, action: Action) -> bool:
        """Whether what an action needs was kept; the runtime computes in full where it was not."""
        if action is Action.TOKEN:
            return self.residuals >= self._policy.token.history and self._keys_values
        if action is Action.SKIP:
            return self.residuals > 0
        return action is not Action.BLOCK or self._table or self.selected_at is not None

    def advance(self, action: Action, step: int) -> None:
        """Note a step that ran."""
        keeps = self.keeps[step]
        if action is not Action.SKIP and residual_is_read(
            self._policy, step, self._num_steps, self._capacity
        ):
            self.residuals = min(self.residuals + 1, self._capacity)
        if action is Action.FULL:
            self._keys_values = Action.TOKEN in keeps and self._holds_tokens
            self.selected_at = step if Action.BLOCK in keeps and not self._table else None


def dry_run(
    policy: Policy,
    num_steps: int,
    sigmas: Sequence[float] | None = None,
    actions: str | None = None,
    holds_tokens: bool = True,
) -> list[Done]:
    """Return what each step of a request does.

    Args:
        policy: a static one, or any when its `actions` are known.
        num_steps: denoising steps of the request; a pattern or table of another number is remapped.
        sigmas: noise levels, one a step, for `guards.sigma_windows`; None where they are not known.
        actions: letters that a request executed, one a step, taken as they are.
        holds_tokens: every block runs in this branch, so that token refreshes find all keys and values.

    Raises:
        ConfigError: the policy decides by signals and no actions are given, or the actions do not fit.
    """
    policy = remap(policy, num_steps, None, sigmas)
    if actions is None and isinstance(policy.controller, DualThreshold):
        raise ConfigError(
            "got dual-threshold, which decides by signals while it runs; give the actions of a trace, "
            "or a pattern, interval or table",
            key="controller.kind",
        )
    if actions is not None and isinstance(policy.controller, Table):
        raise ConfigError("got a table, which is static as it is; leave the actions out", key="actions")
    if actions is not None and (len(actions) != num_steps or not set(actions) <= set(LETTERS)):
        raise ConfigError(
            f"got {actions[:60]!r}; give one letter of {LETTERS} for each of {num_steps} steps", key="actions"
        )
    branch = _Branch(policy, num_steps, holds_tokens)
    state, done = FRESH, []
    for step in range(num_steps):
        info = StepInfo(step, num_steps, None if sigmas is None else sigmas[step])
        decision = Decision(Action(actions[step]), "given") if actions else None
        if decision is None:
            decision, state = decide(policy, state, info, {})
        action, flags = decision.action, decision.compute_blocks
        if actions is None and not branch.can(action):
            action, flags = Action.FULL, None
        selected = branch.selected_at if action is Action.BLOCK and flags is None else None
        done.append(Done(action, flags, selected, branch.keeps[step], branch.residuals))
        branch.advance(action, step)
    return done
