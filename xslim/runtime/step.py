"""One call of the transformer: decides at the first block, then does what each block was told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xslim.policy.controller import decide
from xslim.policy.decision import Action, Decision, StepInfo
from xslim.policy.policy import Policy, Table
from xslim.policy.selection import select_blocks
from xslim.runtime.attention import KeepKeysValues, KeyValue, RefreshKeysValues
from xslim.runtime.branch import BranchState
from xslim.runtime.calls import BlockCall, Streams, run_eagerly
from xslim.runtime.indicators import Features
from xslim.runtime.macs import MacsTable
from xslim.runtime.model import LiveModel
from xslim.runtime.plan import Plan
from xslim.runtime.predictors import predict
from xslim.runtime.rows import Rows
from xslim.runtime.tokens import gather_tokens, scatter_tokens

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
    """

    policy: Policy
    info: StepInfo
    keeps: frozenset[Action]
    keeps_residual: bool
    macs: MacsTable
    bypass: bool
    checks_inputs: bool = False


class Step:
    """The blocks of one call. Every block sees full-shaped tensors; what runs inside may be a part."""

    def __init__(self, model: LiveModel, state: BranchState, task: StepTask, latent: Tensor) -> None:
        self._model = model
        self._state = state
        self._task = task
        self._latent = latent
        self._input: Tensor | None = None
        self._image_tokens: int | None = None
        self._probe: tuple[Streams, KeyValue] | None = None
        self._measured = 0.0  # MACs of a sample that measuring signals took
        self._tokens: Tensor | None = None  # chosen tokens of the T rows, [rows, chosen]
        self._blocks_run = 0.0
        self._fixed_blocks = isinstance(task.policy.controller, Table)
        self._authors = task.policy.parity == "authors"
        self.decisions: tuple[Decision, ...] = ()
        self.readings: tuple[dict[str, float], ...] = ()
        self.overwritten: int | None = None  # a block that wrote into its own input

    def run_block(self, block: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Run one block for the samples and tokens that need it. Returns what the block would return."""
        call = self._model.call(block, args, kwargs, self._image_tokens)
        if block == 0:
            self._begin(call, forward)
        if self._task.bypass:
            return call.run(forward)
        out = self._run(block, call, forward)
        if block == len(self._model.blocks) - 1:
            finished = self._finish(out.image)
            out = out if finished is out.image else Streams(finished, out.text)
        return call.pack(out)

    def _run(self, block: int, call: BlockCall, forward: Forward) -> Streams:
        full, replay, tokens = self._plan.in_block(block)
        if len(full) == 0 and len(replay) == 0 and len(tokens) == 0:
            return call.streams
        if full.all:
            return self._compute(block, call, forward, full)
        out = call.streams.map(torch.clone)
        if len(replay):
            residual = self._state.residuals[block].take(replay)
            out = out.put(replay, call.streams.take(replay) + residual)
        if len(full):
            out = out.put(full, self._compute(block, call, forward, full))
        if len(tokens):
            out = out.put(tokens, self._refresh(block, call, forward, tokens))
        return out

    # deciding

    def _begin(self, call: BlockCall, forward: Forward) -> None:
        state, task = self._state, self._task
        self._input = call.streams.image
        self._image_tokens = call.image_tokens
        if task.bypass:
            self.decisions = (Decision(Action.FULL, "policy does not fit"),) * state.rows
            self.readings = ({},) * state.rows
            return
        self.readings = self._read(call, forward)
        decisions = []
        for row, reading in enumerate(self.readings):
            decision, after = decide(task.policy, state.controllers[row], task.info, reading)
            if not self._can(decision, row):
                decision = replace(decision, action=Action.FULL, reason="nothing kept", err=0.0)
                _, after = decide(_ALWAYS, state.controllers[row], task.info, {})
            decisions.append(decision)
            state.controllers[row] = after
        self.decisions = tuple(decisions)
        self._plan = Plan(self.decisions, state.compute_flags, call.streams.image.device)
        self._tokens = state.tokens.select(self._plan.token, task.policy)

    def _read(self, call: BlockCall, forward: Forward) -> tuple[dict[str, float], ...]:
        """Measure all signals of all samples; one host synchronisation, none on CUDA without signals."""
        state = self._state

        def modulated() -> Tensor:
            self._measured += self._task.macs.modulation
            return self._model.modulated(call)

        def probe() -> Tensor:
            self._probe = self._call(0, call, forward)
            return self._probe[0].image - call.streams.image

        def embedding() -> Tensor:
            self._measured += self._task.macs.embedding
            return self._model.time_embedding(call)

        known = [len(times) for times in state.history.times] or [0] * state.rows
        features = Features(
            self._latent,
            modulated,
            probe,
            embedding,
            state.history.tensors(),
            known,
        )
        found = {name: i.measure(features) for name, i in state.indicators.items()}
        columns = {name: m.values.float() for name, m in found.items() if m is not None}
        health = state.health.flags(waits=bool(columns))
        if health is not None:
            columns["residual_health"] = health
        if not columns:
            return tuple({} for _ in range(state.rows))
        table = torch.stack(list(columns.values()), dim=1).tolist()
        rows = []
        for row, values in enumerate(table):
            reading = dict(zip(columns, values, strict=True))
            for name, measured in found.items():
                if measured is not None and not measured.defined[row]:
                    del reading[name]
            rows.append(reading)
        return tuple(rows)

    def _can(self, decision: Decision, row: int) -> bool:
        """Whether what a decision needs was kept."""
        if decision.action is Action.TOKEN:
            twice = len(self._state.history.times[row]) >= 2  # the change of the tokens is known
            return twice and self._state.keys_values.complete(len(self._model.blocks))
        if decision.action is Action.BLOCK:
            return self._fixed_blocks or self._state.compute_flags[row] is not None
        return True

    # running

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

    def _compute(self, block: int, call: BlockCall, forward: Forward, rows: Rows) -> Streams:
        """Run a block for some samples and keep what later refreshes need."""
        self._blocks_run += len(rows) * self._task.macs.blocks[block].full
        if block == 0 and self._probe is not None:
            out, kept = self._probe
            out = out if rows.all else out.take(rows)
            kept = tuple(rows.take(tensor) for tensor in kept)
        elif rows.all:
            out, kept = self._call(block, call, forward)
        else:
            out, kept = self._call(block, call.of_rows(rows), forward)
        if kept:
            self._state.keys_values.store(block, kept, rows)
        if Action.BLOCK in self._task.keeps and self._may_replay(block):
            self._record(block, out - call.streams.take(rows), rows)
        return out

    def _may_replay(self, block: int) -> bool:
        """Whether a refresh may replay a block; the first of each kind are always recomputed."""
        return self._fixed_blocks or self._model.depths[block] > self._task.policy.block.start_block

    def _record(self, block: int, residual: Streams, rows: Rows) -> None:
        """Keep a block's residual: of full steps only (as published), of every step for a table."""
        full = self._plan.full
        if self._fixed_blocks or len(full) == len(rows):
            self._state.residuals.record(block, residual, rows)
        elif len(full):
            inside = Rows.of([row in full.members for row in rows.members], residual.image.device)
            self._state.residuals.record(block, residual.take(inside), full)

    def _refresh(self, block: int, call: BlockCall, forward: Forward, rows: Rows) -> Streams:
        """Run a block for the chosen tokens, and all text, of some samples."""
        chosen = self._tokens
        if chosen is None:
            raise RuntimeError("a token refresh without chosen tokens")
        self._blocks_run += len(rows) * self._task.macs.blocks[block].at(chosen.shape[1])
        rotary = call.stack.rotary
        if len(rows) > 1 and rotary is not None and not rotary.batched:
            samples = [Rows.of([i == row for i in range(rows.total)], chosen.device) for row in rows.members]
            parts = [
                self._refresh_together(block, call, forward, sample, chosen[i : i + 1])
                for i, sample in enumerate(samples)
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
        if mode.kept:
            self._state.keys_values.store(block, mode.kept, rows)
        return Streams(scatter_tokens(part.streams.image, chosen, out.image), out.text)

    # finishing

    def _finish(self, out: Tensor) -> Tensor:
        """Fill what was not computed with the prediction, and keep the new residuals."""
        state, entered = self._state, self._input
        if entered is None:
            raise RuntimeError("the last block ran before the first")
        if len(self._plan.skip) or len(self._plan.token):
            out = self._fill(out, entered)
        if len(self._plan.computed) and not self._task.keeps_residual:
            state.health.note(None)
            self._choose_blocks()
        elif len(self._plan.computed):
            residual = self._plan.computed.take(out) - self._plan.computed.take(entered)
            state.history.push(residual, float(self._task.info.step), self._plan.computed)
            nonfinite = [decision.nonfinite for decision in self.decisions]
            if any(nonfinite):
                state.history.restart(Rows.of(nonfinite, residual.device))
            state.health.note(state.history.newest)
            self._note_tokens()
            self._choose_blocks()
        keep = self._authors and Action.TOKEN in self._task.keeps
        state.last_output = out if keep else None
        return out

    def _fill(self, out: Tensor, entered: Tensor) -> Tensor:
        """Predict skipped stacks and the tokens left out; under parity those keep the last output."""
        predicted = entered + predict(self._task.policy, self._state.history, self._task.info)
        left_out = predicted if self._state.last_output is None else self._state.last_output
        if self._plan.skip.all:
            return predicted
        if not len(self._plan.skip) and self._plan.token.all and self._tokens is not None:
            return scatter_tokens(left_out, self._tokens, gather_tokens(out, self._tokens))
        out = out.clone()
        if len(self._plan.skip):
            self._plan.skip.put(out, self._plan.skip.take(predicted))
        if len(self._plan.token) and self._tokens is not None:
            fresh = gather_tokens(self._plan.token.take(out), self._tokens)
            self._plan.token.put(out, scatter_tokens(self._plan.token.take(left_out), self._tokens, fresh))
        return out

    def _note_tokens(self) -> None:
        """Update the change and the age of the tokens that were computed."""
        state = self._state
        if Action.TOKEN not in self._task.keeps and not len(self._plan.token):
            return
        change = state.history.change()
        if change is None:
            return
        state.tokens.note_all(change, self._plan.computed if self._authors else self._plan.whole)
        if self._tokens is not None and not self._authors:
            state.tokens.note_chosen(change, self._plan.token, self._tokens)

    def _choose_blocks(self) -> None:
        """After a full step: which blocks a later refresh recomputes; drop what nobody replays."""
        state = self._state
        if not len(self._plan.full) or self._fixed_blocks:
            return
        if Action.BLOCK not in self._task.keeps:
            if self._plan.full.all:
                state.forget_blocks()
            return
        sizes = state.residuals.sizes(len(self._model.blocks), state.rows)
        for row in self._plan.full.members:
            rule = self._task.policy.block
            state.compute_flags[row] = select_blocks(sizes[row], self._model.kinds, rule)
        if self._plan.full.all:
            kept = [flags for flags in state.compute_flags if flags is not None]
            replayed = {i for flags in kept for i, compute in enumerate(flags) if not compute}
            state.residuals.keep_only(replayed)

    def observe(self, output: Tensor) -> None:
        """Show the transformer's output [batch, ...] to the signals that need it."""
        computed = tuple(decision.action is not Action.SKIP for decision in self.decisions)
        for indicator in self._state.indicators.values():
            indicator.observe(output, computed)

    @property
    def macs(self) -> float:
        """MACs that ran, over all samples."""
        rows, table = self._state.rows, self._task.macs
        if self._task.bypass:
            return rows * table.total
        extra = rows * self._measured
        if self._probe is not None:  # samples that did not compute the first block anyway
            extra += (rows - len(self._plan.in_block(0)[0])) * table.blocks[0].full
        return rows * table.outside + self._blocks_run + extra


_ALWAYS = Policy.from_pattern("F")
