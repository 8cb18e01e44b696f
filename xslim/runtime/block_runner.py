"""Runs the blocks of one step: for all samples, for some, or for some of their tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xslim.policy.decision import Action, StepInfo
from xslim.policy.policy import Policy, Table
from xslim.runtime.attention import KeepKeysValues, KeyValue, RefreshKeysValues
from xslim.runtime.branch import BranchState
from xslim.runtime.calls import BlockCall, Streams, run_eagerly
from xslim.runtime.compensation import Compensation
from xslim.runtime.macs import MacsTable
from xslim.runtime.model import LiveModel
from xslim.runtime.plan import Plan
from xslim.runtime.rows import Rows
from xslim.runtime.tokens import scatter_tokens

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class StepTask:
    """What a step needs to know.

    Attributes:
        policy: the policy in force; its actions are ignored when `bypass` is set.
        info: the step.
        keeps: actions that may follow before the next full step.
        keeps_residual: a later step may read the residual of this one.
        macs: cost of the call.
        bypass: the policy does not fit the request: every sample is full, nothing is kept.
        checks_inputs: compare the input of every block before and after; waits for the device.
        network: of the policy's corrector, where that is learned.
    """

    policy: Policy
    info: StepInfo
    keeps: frozenset[Action]
    keeps_residual: bool
    macs: MacsTable
    bypass: bool
    checks_inputs: bool = False
    network: Compensation | None = None


class BlockRunner:
    """Does in each block what the plan says, and keeps what later refreshes need.

    Attributes:
        probe: what the first block returned when a signal ran it before the step was decided.
        macs: MACs that ran in blocks, over all samples.
        overwritten: a block that wrote into its own input, or None.
    """

    def __init__(self, model: LiveModel, state: BranchState, task: StepTask) -> None:
        self._model = model
        self._state = state
        self._task = task
        self._fixed_blocks = isinstance(task.policy.controller, Table)
        self.probe: tuple[Streams, KeyValue] | None = None
        self.macs = 0.0
        self.overwritten: int | None = None

    def run_probe(self, call: BlockCall, forward: Forward) -> Streams:
        """Run the first block for all samples; `run` uses the result instead of running it again."""
        self.probe = self._call(0, call, forward)
        return self.probe[0]

    def run(
        self, block: int, call: BlockCall, forward: Forward, plan: Plan, tokens: Tensor | None
    ) -> Streams:
        """Run one block.

        Args:
            block: its index.
            call: its call, for all samples.
            forward: its forward.
            plan: which samples compute, replay or refresh.
            tokens: image tokens of the samples that refresh, [rows, chosen].
        """
        full, replay, refresh = plan.in_block(block)
        if len(full) == 0 and len(replay) == 0 and len(refresh) == 0:
            return call.streams
        if full.all:
            return self._compute(block, call, forward, full, plan)
        out = call.streams.map(torch.clone)
        if len(replay):
            residual = self._state.residuals[block].take(replay)
            out = out.put(replay, call.streams.take(replay) + residual)
        if len(full):
            out = out.put(full, self._compute(block, call, forward, full, plan))
        if len(refresh) and tokens is not None:
            out = out.put(refresh, self._refresh(block, call, forward, plan, tokens))
        return out

    def _call(self, block: int, call: BlockCall, forward: Forward) -> tuple[Streams, KeyValue]:
        """Run a block; in the session's first call, see whether it leaves its input as it was."""
        if not self._task.checks_inputs:
            return self._noting(call, forward)
        before = [None if part is None else part.clone() for part in call.streams]
        done = self._noting(call, forward)
        for old, new in zip(before, call.streams, strict=True):
            if old is None or new is None:
                continue
            if not torch.allclose(old, new, rtol=0.0, atol=0.0, equal_nan=True):
                self.overwritten = block
        return done

    def _noting(self, call: BlockCall, forward: Forward) -> tuple[Streams, KeyValue]:
        """Run a block, noting keys and values when a token refresh may follow."""
        if Action.TOKEN not in self._task.keeps:
            return call.unpack(call.run(forward)), ()
        with KeepKeysValues(call.stack.attention) as mode:
            out = call.unpack(run_eagerly(call, forward))
        return out, mode.kept

    def _compute(self, block: int, call: BlockCall, forward: Forward, rows: Rows, plan: Plan) -> Streams:
        """Run a block for some samples and keep what later refreshes need."""
        self.macs += len(rows) * self._task.macs.blocks[block].full
        if block == 0 and self.probe is not None:
            out, kept = self.probe
            out = out if rows.all else out.take(rows)
            kept = tuple(rows.take(tensor) for tensor in kept)
        elif rows.all:
            out, kept = self._call(block, call, forward)
        else:
            out, kept = self._call(block, call.of_rows(rows), forward)
        if kept:
            self._state.keys_values.store(block, kept, rows)
        if Action.BLOCK in self._task.keeps and self._may_replay(block):
            self._record(block, out - call.streams.take(rows), rows, plan.full)
        return out

    def _may_replay(self, block: int) -> bool:
        """Whether a refresh may replay a block; the first of each kind, or the ends, never are."""
        if self._fixed_blocks:
            return True
        rule = self._task.policy.block
        ends = rule.at_ends(len(self._model.blocks))
        return self._model.depths[block] > rule.start_block if ends is None else not ends[block]

    def _record(self, block: int, residual: Streams, rows: Rows, full: Rows) -> None:
        """Keep a block's residual: of full steps only (as published), of every step for a table."""
        if self._fixed_blocks or len(full) == len(rows):
            self._state.residuals.record(block, residual, rows)
        elif len(full):
            inside = Rows.of([row in full.members for row in rows.members], residual.image.device)
            self._state.residuals.record(block, residual.take(inside), full)

    def _refresh(self, block: int, call: BlockCall, forward: Forward, plan: Plan, chosen: Tensor) -> Streams:
        """Run a block for the chosen tokens, and all text, of some samples."""
        rows = plan.token
        self.macs += len(rows) * self._task.macs.blocks[block].at(chosen.shape[1])
        rotary = call.stack.rotary
        if len(rows) > 1 and rotary is not None and not rotary.batched:
            parts = [
                self._refresh_together(block, call, forward, plan.one(row), chosen[i : i + 1])
                for i, row in enumerate(rows.members)
            ]
            texts = [part.text for part in parts if part.text is not None]
            return Streams(torch.cat([part.image for part in parts]), torch.cat(texts) if texts else None)
        return self._refresh_together(block, call, forward, rows, chosen)

    def _refresh_together(
        self, block: int, call: BlockCall, forward: Forward, rows: Rows, chosen: Tensor
    ) -> Streams:
        part = call.of_rows(rows)
        calls = call.stack.attention
        small = part.of_tokens(chosen)
        with RefreshKeysValues(calls, self._state.keys_values.take(block, rows), chosen) as mode:
            out = small.unpack(run_eagerly(small, forward))
        if mode.kept and self._task.policy.token.kv_writeback:
            self._state.keys_values.store(block, mode.kept, rows)
        return Streams(scatter_tokens(part.streams.image, chosen, out.image), out.text)
