"""Replay: what a policy does to the recorded trajectory, without running the transformer.

The decisions are the runtime's own (`xslim.policy.controller.decide`) on the recorded signals, so the actions
of a static policy are exact, and those of an online one are what it would do if the signals were those of
the uncached request. What stands in for each step's residual is then a linear combination of the recorded
residuals, whose inner products are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from autotune.scoring.cost import CostModel
from autotune.scoring.cost_steps import Done, dry_run
from autotune.scoring.profile import TOKEN_BUDGETS, Array, Profile
from xslim.errors import ConfigError
from xslim.policy.controller import FRESH, ControllerState, decide, error_growth
from xslim.policy.decision import Action, Decision, StepInfo
from xslim.policy.policy import BlockReuse, DualThreshold, Policy, Predictor
from xslim.runtime.predictors import Kept, weights

TINY = 1e-30


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a policy.

    Attributes:
        actions: letters of every row, [rows]; all the same for a static policy.
        compute_fraction: share of the reference's uncached MACs, mean over rows.
        products: <d_t, d_u> of the residual errors at the reference's steps, mean over rows, [steps, steps].
    """

    actions: tuple[str, ...]
    compute_fraction: float
    products: Array


@dataclass(frozen=True, slots=True)
class Judged:
    """What the controller makes of one recorded step.

    Attributes:
        decision: what it decides; its `err` is the estimate after the step.
        estimate: the accumulated estimate that is held against the two lines; None while a signal has no
            value.
    """

    decision: Decision
    estimate: float | None


@dataclass(frozen=True)
class Replay:
    """Replays policies on one profile; remembers predictors' weights and chosen blocks.

    Attributes:
        profile: at the number of steps of the request.
        reference: that of the reference configuration, when it has another number of steps. A request of
            fewer steps is taken to use, between two of its steps, what the first of them used.
    """

    profile: Profile
    reference: Profile | None = None
    _blocks: dict[tuple[BlockReuse, int], Array] = field(default_factory=dict)
    _weights: dict[tuple[Predictor, tuple[int, ...], int], Array] = field(default_factory=dict)

    def knows(self, policy: Policy) -> bool:
        """Whether the profile has what the policy decides by: no signal that follows its own full steps."""
        return not (isinstance(policy.controller, DualThreshold) and policy.indicator.follows_decisions)

    def check(self, policy: Policy) -> None:
        """Refuse what the profile does not tell.

        Raises:
            ConfigError: the policy is not one that the replay `knows`.
        """
        if not self.knows(policy):
            raise ConfigError(
                "got computed, and a profile has the changes between neighbouring steps only, so nothing can "
                "be replayed or planned; search controller.critical, or use previous",
                key="indicator.compare",
            )

    def run(self, policy: Policy) -> Replayed:
        """Replay a policy.

        Raises:
            ConfigError: the policy cannot be remapped to the profile's steps, or `check` refuses it.
        """
        self.check(policy)
        if isinstance(policy.controller, DualThreshold):
            decided = self._decided(policy)
        else:
            decided = [""] * len(self.profile.gram)
        products = np.zeros((self.whole.num_steps,) * 2)
        fraction, actions = 0.0, {}
        for letters, count in Counter(decided).items():
            done = self._done(policy, letters or None)
            share = count / len(decided)
            actions[letters] = "".join(call.action for call in done)
            products += self._against_reference(self.errors(policy, done)) * share
            fraction += self.cost.compute_fraction(policy, letters or None) * share
        fraction *= self.profile.num_steps / self.whole.num_steps
        return Replayed(tuple(actions[letters] for letters in decided), fraction, products)

    def _against_reference(self, errors: Array) -> Array:
        """Inner products of the errors of the reference's steps, from those of this request's steps.

        Shapes: [steps, steps] -> [reference steps, reference steps].
        """
        if self.reference is None:
            return self.products(errors)
        size = self.reference.num_steps
        nodes = self.reference.nodes(self.profile.num_steps)
        used = np.zeros((size, size))
        stands = np.clip(np.searchsorted(nodes, np.arange(size), side="right") - 1, 0, None)
        np.add.at(used.T, nodes, (errors + np.eye(len(nodes)))[stands].T)
        off = used - np.eye(size)
        found: Array = off @ self._reference_gram @ off.T
        return found

    def static_products(self, policy: Policy) -> Array:
        """Inner products of the residual errors of a static policy; cheaper than `run`."""
        return self.products(self.errors(policy, self._done(policy, None)))

    @property
    def whole(self) -> Profile:
        """The profile of the reference configuration."""
        return self.profile if self.reference is None else self.reference

    @property
    def cost(self) -> CostModel:
        """The profile's cost model."""
        if self.profile.cost is None:
            raise ValueError("the profile has no cost model")
        return self.profile.cost

    def products(self, errors: Array) -> Array:
        """Inner products of residual errors, by the mean row. Shapes: [steps, steps] -> [steps, steps]."""
        found: Array = errors @ self.gram @ errors.T
        return found

    @cached_property
    def gram(self) -> Array:
        """Inner products of the residuals of the mean row, [steps, steps]."""
        mean: Array = self.profile.gram.mean(0)
        return mean

    @cached_property
    def _reference_gram(self) -> Array:
        mean: Array = self.whole.gram.mean(0)
        return mean

    def predicted(self, predictor: Predictor, nodes: tuple[int, ...], step: int) -> Array:
        """Weights of the computed steps `nodes`, newest first, for a step; as many as the predictor reads."""
        key = (predictor, nodes, step)
        if key not in self._weights:

            def dot(i: int, j: int) -> Tensor:
                return torch.tensor(self.gram[nodes[i], nodes[j]])

            times = tuple(float(node) for node in nodes)
            found = weights(predictor, Kept(times, float(step), self.profile.num_steps, dot))
            self._weights[key] = np.array([float(w) for w in found])
        return self._weights[key]

    def errors(self, policy: Policy, done: list[Done]) -> Array:
        """Residual error of every step as a combination of the recorded residuals, [steps, steps]."""
        steps = self.profile.num_steps
        used = np.zeros((steps, steps))  # what stands for each step's residual
        kept: list[int] = []  # steps that computed, newest first
        blocks_at = np.zeros(len(self.profile.blocks) or 1, dtype=int)
        for step, call in enumerate(done):
            history = tuple(kept[: policy.predictor.history])
            if call.action is Action.FULL:
                used[step, step] = 1.0
            elif call.action is Action.BLOCK:
                used[step] = self._block_refresh(policy, call, step, blocks_at)
            else:
                w = self.predicted(policy.predictor, history, step)
                used[step] = w @ used[list(history[: len(w)])]
                if call.action is Action.TOKEN:
                    used[step] *= self._token_share(policy, step)
                    used[step, step] += 1.0 - self._token_share(policy, step)
            if call.action is Action.FULL:
                blocks_at[:] = step
            elif call.flags is not None:
                blocks_at[np.array(call.flags)] = step
            if call.action is not Action.SKIP:
                kept.insert(0, step)
        return used - np.eye(steps)

    def _token_share(self, policy: Policy, step: int) -> float:
        """Length of the error that a token refresh leaves, by that of a skip."""
        if (
            policy.token.select == "random"
        ):  # which leaves, on average, as much of the square as of the tokens
            return float(np.sqrt(1.0 - policy.token.budget))
        if not self.profile.tokens.size:
            return 1.0 - policy.token.budget
        budgets = (0.0, *TOKEN_BUDGETS, 1.0)
        captured = (0.0, *self.profile.tokens[max(step, 1) - 1], 1.0)
        return float(np.sqrt(max(0.0, 1.0 - np.interp(policy.token.budget, budgets, captured))))

    def _block_refresh(self, policy: Policy, call: Done, step: int, since: Array) -> Array:
        """What stands for the residual when some blocks are replayed from the steps they last computed at.

        A block's part of the stack's change is taken to be its part of all blocks' squared changes.
        """
        used = np.zeros(self.profile.num_steps)
        used[step] = 1.0
        grams = self.profile.blocks
        if call.flags is not None:
            replayed = 1.0 - np.array(call.flags, dtype=float)
        else:
            replayed = 1.0 - self._selected(policy, call.selected_at or 0)
        if not grams.size:
            share = float(np.mean(replayed))
            used[step] -= share
            used[int(since[0])] += share
            return used
        for origin in np.unique(since):
            change = grams[:, step, step] + grams[:, origin, origin] - 2 * grams[:, step, origin]
            of_all = float(change.sum())
            share = float((change * replayed)[since == origin].sum()) / max(of_all, TINY)
            used[step] -= share
            used[int(origin)] += share
        return used

    def _selected(self, policy: Policy, step: int) -> Array:
        """Share of rows in which each block is recomputed, [blocks]."""
        key = (policy.block, step)
        if key not in self._blocks:
            branches = self.cost.branches
            flags = [row for b in branches for row in self.cost.selected_blocks(policy, b, step)]
            self._blocks[key] = np.mean(np.array(flags, dtype=float), axis=0)
        return self._blocks[key]

    def _done(self, policy: Policy, letters: str | None) -> list[Done]:
        return dry_run(policy, self.profile.num_steps, self.cost.sigmas, letters)

    def _decided(self, policy: Policy) -> list[str]:
        """Letters of every row, by the controller on the recorded signals."""
        rows = len(self.profile.gram)
        return [self._decided_row(policy, self.readings(policy, row)) for row in range(rows)]

    def _decided_row(self, policy: Policy, readings: list[Mapping[str, float]]) -> str:
        return "".join(decision.action for _, _, decision in self._walk(policy, readings))

    def judged(self, policy: Policy, row: int) -> list[Judged]:
        """Decisions of an online policy on the recorded signals of one row, and the estimates behind them."""
        readings = self.readings(policy, row)
        return [
            Judged(decision, None if growth is None else state.err + growth)
            for state, info, decision in self._walk(policy, readings)
            for growth in [error_growth(policy, state, info, readings[info.step])]
        ]

    def _walk(
        self, policy: Policy, readings: list[Mapping[str, float]]
    ) -> Iterator[tuple[ControllerState, StepInfo, Decision]]:
        """The state before each step, the step, and what is decided."""
        steps, sigmas = self.profile.num_steps, self.cost.sigmas
        state = FRESH
        computed = 0  # residuals, of which a token refresh needs some
        for step in range(steps):
            info = StepInfo(step, steps, None if sigmas is None else sigmas[step])
            decision, after = decide(policy, state, info, readings[step])
            if decision.action is Action.TOKEN and computed < policy.token.history:
                decision, after = decide(_ALWAYS, state, info, {})
            yield state, info, decision
            state = after
            computed += decision.action is not Action.SKIP

    def blocks_run(self, policy: Policy, letters: str | None) -> Array:
        """Share of rows, or at a token refresh of tokens, for which each block runs, [steps, blocks].

        Args:
            policy: the policy.
            letters: of one row of an online policy; None for a static one.
        """
        shares = {Action.FULL: 1.0, Action.SKIP: 0.0, Action.TOKEN: policy.token.budget}
        found = np.zeros((self.profile.num_steps, len(self.cost.kinds)))
        for step, call in enumerate(self._done(policy, letters)):
            if call.flags is not None:
                found[step] = call.flags
            elif call.action is Action.BLOCK:
                found[step] = self._selected(policy, call.selected_at or 0)
            else:
                found[step] = shares[call.action]
        return found

    def readings(self, policy: Policy, row: int) -> list[Mapping[str, float]]:
        """The recorded signals that a policy reads, of one row at every step."""
        signals = [name for name in policy.signals if name in self.profile.signals]
        found: list[Mapping[str, float]] = [{}]
        for step in range(self.profile.num_steps - 1):
            values = {name: float(self.profile.signals[name][step, row]) for name in signals}
            found.append({name: value for name, value in values.items() if np.isfinite(value)})
        return found


_ALWAYS = Policy.from_pattern("F")
