"""The cost model: what any schedule costs on one model and input shape, without running the model.

MACs are exact: they come from the table that a session counts with (`xslim.runtime.macs`) and the runtime's
own rules. Seconds are fitted to timed requests (`cost_fit`) and hold for the device and batch of the fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from pydantic import Field

from autotune.scoring.cost_parts import BranchCost, CallCost, CallSeconds, CostError, Positive, terms
from autotune.scoring.cost_steps import Done, dry_run
from xslim.errors import ConfigError
from xslim.policy.decision import Action
from xslim.policy.document import Document
from xslim.policy.policy import LETTERS, Policy
from xslim.policy.selection import select_blocks
from xslim.runtime.indicators import INDICATORS
from xslim.runtime.macs import MacsTable
from xslim.runtime.tokens import tokens_at


@dataclass(frozen=True, slots=True)
class StepCost:
    """One denoising step by its action, over all branches.

    Attributes:
        fraction: its MACs by those of an uncached step.
        seconds: of the step; None without fitted seconds.
    """

    fraction: float
    seconds: float | None


class _Refreshed(NamedTuple):
    """A block refresh of all samples: MACs in its blocks, and how many samples replay the first block."""

    macs: float
    unprobed: int


class CostModel(Document):
    """What a request costs under a policy, for one model, input shape and (for seconds) device.

    Attributes:
        family: adapter name.
        transformer: class name.
        device: what the seconds were fitted on.
        batch: pictures of a request.
        num_steps: denoising steps.
        sigmas: noise levels, one a step.
        kinds: kind of every block, in depth order.
        counted: MACs were counted; else every block costs 1 and everything else nothing.
        branches: the guidance branches in the order in which they are called.
        fit: the fitted seconds, or None.
        error: its error on unseen schedules, or None where that was not measured.
    """

    family: str
    transformer: str
    device: str = "unknown"
    batch: Positive
    num_steps: Positive
    sigmas: Annotated[tuple[float, ...], Field(strict=False)] | None = None
    kinds: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    counted: bool = True
    branches: Annotated[tuple[BranchCost, ...], Field(strict=False, min_length=1)]
    fit: CallSeconds | None = None
    error: CostError | None = None

    def at_steps(self, nodes: Sequence[int]) -> CostModel:
        """Return the model of a request whose steps are like these ones.

        Args:
            nodes: a step of this request for each step of that one.
        """
        branches = [
            branch.model_copy(update={"changes": tuple(branch.changes[node] for node in nodes)})
            for branch in self.branches
        ]
        sigmas = None if self.sigmas is None else tuple(self.sigmas[node] for node in nodes)
        update = {"num_steps": len(nodes), "sigmas": sigmas, "branches": tuple(branches), "error": None}
        return self.model_copy(update=update)

    def compute_fraction(self, policy: Policy | str, actions: str | None = None) -> float:
        """Return the share of the uncached request's MACs that run, as a session's trace counts it.

        Exact for full, token and skipped steps and for tables. Which blocks a block refresh recomputes
        depends on the features; here it is decided by those of the uncached request.

        Args:
            policy: a static policy, or the letters of a pattern with `Policy.from_pattern`'s defaults.
            actions: letters that ran, for a policy that decides by signals.

        Raises:
            ConfigError: the policy decides by signals and no actions are given, or is no pattern.
        """
        calls = list(self.calls(policy, actions))
        return sum(call.macs for call in calls) / sum(call.full_macs for call in calls)

    def seconds(self, policy: Policy | str, actions: str | None = None) -> float:
        """Return the seconds of the denoising loop under a policy. Arguments and errors as above.

        Raises:
            ConfigError: the model has no fitted seconds.
        """
        return sum(self.step_seconds(call) for call in self.calls(policy, actions))

    @property
    def uncached_seconds(self) -> float:
        """Seconds of the uncached denoising loop.

        Raises:
            ConfigError: the model has no fitted seconds.
        """
        return self.num_steps * self._fitted.uncached

    def latency_ratio(self, policy: Policy | str, actions: str | None = None) -> float:
        """Return the latency relative to the uncached request, 1 for uncached; 1 / it is the speedup."""
        return self.seconds(policy, actions) / self.uncached_seconds

    def step(self, action: Action | str, share: float = 1.0, reads: int = 1) -> StepCost:
        """Return what one step costs.

        Args:
            action: F, B, T or `.`.
            share: of the blocks' MACs at a block refresh, of the image tokens at a token refresh.
            reads: kept residuals that a prediction reads.

        Raises:
            ConfigError: the action is none of the four, or the share is not in [0, 1].
        """
        if action not in LETTERS or not 0 <= share <= 1:
            raise ConfigError(f"got {action!r} with the share {share}; allowed: one of {LETTERS}, 0 to 1")
        calls = [self._typical(branch, Action(action), share, reads) for branch in self.branches]
        fraction = sum(call.macs for call in calls) / sum(call.full_macs for call in calls)
        seconds = None if self.fit is None else sum(self.step_seconds(call) for call in calls)
        return StepCost(fraction, seconds)

    def overview(self) -> dict[str, StepCost]:
        """Return the cost of a step of every kind, refreshes with half of the blocks or tokens."""
        return {
            "full": self.step(Action.FULL),
            "half the blocks": self.step(Action.BLOCK, 0.5),
            "half the tokens": self.step(Action.TOKEN, 0.5),
            "skip": self.step(Action.SKIP),
        }

    def calls(self, policy: Policy | str, actions: str | None = None) -> Iterator[CallCost]:
        """Walk through the calls of a request. Arguments and errors as for `compute_fraction`."""
        policy = Policy.from_pattern(policy) if isinstance(policy, str) else policy
        for branch in self.branches:
            done = dry_run(policy, self.num_steps, self.sigmas, actions, branch.whole)
            chosen: dict[int, _Refreshed] = {}
            for step, call in enumerate(done):
                yield self._call(policy, branch, step, call, chosen)

    def step_seconds(self, call: CallCost) -> float:
        """Return the seconds of one call.

        Raises:
            ConfigError: the model has no fitted seconds.
        """
        fitted = self._fitted.terms
        return sum(fitted[name] * value for name, value in terms(call).items())

    @property
    def _fitted(self) -> CallSeconds:
        if self.fit is None:
            raise ConfigError("this cost model has no seconds; run `autotune profile`", key="cost.fit")
        return self.fit

    def _call(
        self, policy: Policy, branch: BranchCost, step: int, done: Done, chosen: dict[int, _Refreshed]
    ) -> CallCost:
        table, rows = branch.table, branch.rows
        unprobed = rows if done.action in (Action.SKIP, Action.TOKEN) else 0
        if done.action is Action.FULL:
            inside = rows * (table.total - table.outside)
        elif done.action is Action.TOKEN:
            tokens = tokens_at(policy, branch.tokens) if branch.tokens else 0
            inside = rows * sum(block.at(tokens) for block in table.blocks)
        elif done.action is Action.SKIP:
            inside = 0.0
        elif done.flags is not None:
            inside = rows * _computed(table, done.flags)
        else:
            origin = done.selected_at or 0
            if origin not in chosen:
                flags = self.selected_blocks(policy, branch, origin)
                macs = sum(_computed(table, f) for f in flags)
                chosen[origin] = _Refreshed(macs, sum(not f[0] for f in flags))
            inside, unprobed = chosen[origin]
        extra = self._measuring(policy, branch, unprobed)
        measures = any(name in INDICATORS for name in policy.signals)
        predicts = done.action in (Action.SKIP, Action.TOKEN)
        return CallCost(
            step=step,
            branch=branch.name,
            action=done.action,
            macs=rows * _outside(table, done.action, measures) + inside + extra,
            full_macs=rows * table.total,
            blocks_macs=inside,
            keeps=done.keeps,
            reads=min(policy.predictor.history, done.pushed) if predicts else 0,
        )

    def _typical(self, branch: BranchCost, action: Action, share: float, reads: int) -> CallCost:
        table, rows = branch.table, branch.rows
        shares = {Action.FULL: 1.0, Action.BLOCK: share, Action.SKIP: 0.0}
        if action is Action.TOKEN:
            inside = rows * sum(block.at(round(share * block.tokens)) for block in table.blocks)
        else:
            inside = rows * shares[action] * (table.total - table.outside)
        reads = reads if action in (Action.SKIP, Action.TOKEN) else 0
        outside, full = rows * _outside(table, action), rows * table.total
        return CallCost(0, branch.name, action, outside + inside, full, inside, frozenset(), reads)

    def selected_blocks(self, policy: Policy, branch: BranchCost, step: int) -> list[tuple[bool, ...]]:
        """Blocks that a refresh recomputes, one list a row, by the changes of a full step.

        As in the runtime, blocks that are always recomputed stand with a change of 0.
        """
        depths = [self.kinds[:index].count(kind) for index, kind in enumerate(self.kinds)]
        start = policy.block.start_block
        return [
            select_blocks(
                [c if depth > start else 0.0 for c, depth in zip(row, depths, strict=True)],
                self.kinds,
                policy.block,
            )
            for row in branch.changes[step]
        ]

    def _measuring(self, policy: Policy, branch: BranchCost, unprobed: int) -> float:
        """MACs that measuring the signals takes.

        Args:
            policy: whose signals.
            branch: that is called.
            unprobed: samples that do not compute the first block anyway.
        """
        table, rows = branch.table, branch.rows
        costs = {
            "modulated_input": rows * table.modulation,
            "timestep_embedding": rows * table.embedding,
            "first_block": unprobed * table.blocks[0].full,
        }
        return sum(costs.get(name, 0.0) for name in policy.signals)


def _outside(table: MacsTable, action: Action, measures: bool = False) -> float:
    """MACs around the blocks; nobody reads the text at a skip, which is known early without signals."""
    return table.outside - table.text if action is Action.SKIP and not measures else table.outside


def _computed(table: MacsTable, flags: Sequence[bool]) -> float:
    return sum(block.full for block, flag in zip(table.blocks, flags, strict=True) if flag)
