"""One call of the transformer: decides at the first block, then does what each block was told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
from xslim.runtime.indicators import Features
from xslim.runtime.macs import MacsTable
from xslim.runtime.model import LiveModel
from xslim.runtime.predictors import weights
from xslim.runtime.rows import Rows
from xslim.runtime.tokens import gather_tokens, scatter_tokens

Forward = Callable[..., Tensor]


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
    """

    policy: Policy
    info: StepInfo
    keeps: frozenset[Action]
    keeps_residual: bool
    macs: MacsTable
    bypass: bool


class Step:
    """The blocks of one call. Every block sees full-shaped tensors; what runs inside may be a part."""

    def __init__(self, model: LiveModel, state: BranchState, task: StepTask, latent: Tensor) -> None:
        self._model = model
        self._state = state
        self._task = task
        self._latent = latent
        self._input: Tensor | None = None
        self._probe: tuple[Tensor, KeyValue | None] | None = None
        self._modulated = False
        self._tokens: Tensor | None = None  # chosen tokens of the T rows, [rows, chosen]
        self._blocks_run = 0.0
        self._fixed_blocks = isinstance(task.policy.controller, Table)
        self.decisions: tuple[Decision, ...] = ()
        self.readings: tuple[dict[str, float], ...] = ()

    def run_block(self, block: int, forward: Forward, args: Any, kwargs: Any) -> Tensor:
        """Run one block for the samples and tokens that need it. Shape as the block's output."""
        arguments = self._model.block_arguments(block, args, kwargs)
        hidden: Tensor = arguments[self._model.adapter.hidden]
        if block == 0:
            self._begin(hidden, forward, arguments)
        if self._task.bypass:
            return forward(*args, **kwargs)
        full, replay, tokens = self._work_of(block)
        if len(full) == 0 and len(replay) == 0 and len(tokens) == 0:
            out = hidden
        elif full.all:
            out = self._compute(block, forward, arguments, hidden, full)
        else:
            out = hidden.clone()
            if len(full):
                full.put(out, self._compute(block, forward, arguments, hidden, full))
            if len(replay):
                replayed = replay.take(hidden) + replay.take(self._state.residuals[block])
                replay.put(out, replayed)
            if len(tokens):
                tokens.put(out, self._refresh(block, forward, arguments, hidden, tokens))
        if block == len(self._model.blocks) - 1:
            out = self._finish(out)
        return out

    # deciding

    def _begin(self, hidden: Tensor, forward: Forward, arguments: Mapping[str, Any]) -> None:
        state, task = self._state, self._task
        self._input = hidden
        if task.bypass:
            self.decisions = (Decision(Action.FULL, "policy does not fit"),) * state.rows
            self.readings = ({},) * state.rows
            return
        self.readings = self._read(hidden, forward, arguments)
        decisions = []
        for row, reading in enumerate(self.readings):
            decision, after = decide(task.policy, state.controllers[row], task.info, reading)
            if not self._can(decision, row):
                decision = replace(decision, action=Action.FULL, reason="nothing kept", err=0.0)
                _, after = decide(_ALWAYS, state.controllers[row], task.info, {})
            decisions.append(decision)
            state.controllers[row] = after
        self.decisions = tuple(decisions)
        self._plan(hidden)

    def _read(
        self, hidden: Tensor, forward: Forward, arguments: Mapping[str, Any]
    ) -> tuple[dict[str, float], ...]:
        """Measure all signals of all samples; one host synchronisation."""
        state = self._state

        def modulated() -> Tensor:
            self._modulated = True
            return self._model.modulated(arguments)

        def probe() -> Tensor:
            out, kept = self._call(0, forward, arguments)
            self._probe = (out, kept)
            return out - hidden

        features = Features(self._latent, modulated, probe)
        found = {name: i.measure(features) for name, i in state.indicators.items()}
        columns = {name: m.values.float() for name, m in found.items() if m is not None}
        if state.health is not None:
            columns["residual_health"] = state.health
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

    def _plan(self, hidden: Tensor) -> None:
        device, state = hidden.device, self._state
        actions = [decision.action for decision in self.decisions]
        self._full = Rows.of([a is Action.FULL for a in actions], device)
        self._token = Rows.of([a is Action.TOKEN for a in actions], device)
        self._block = Rows.of([a is Action.BLOCK for a in actions], device)
        self._skip = Rows.of([a is Action.SKIP for a in actions], device)
        self._computed = Rows.of([a is not Action.SKIP for a in actions], device)
        self._none = Rows((), state.rows)
        self._tokens = state.tokens.select(self._token, self._task.policy.token)

    def _work_of(self, block: int) -> tuple[Rows, Rows, Rows]:
        """Which samples compute a block, replay it, or refresh tokens in it."""
        if not len(self._block):
            return self._full, self._none, self._token
        compute, replay = [], []
        for decision, kept in zip(self.decisions, self._state.compute_flags, strict=True):
            flags = decision.compute_blocks or kept or ()
            refresh = decision.action is Action.BLOCK
            compute.append(decision.action is Action.FULL or (refresh and flags[block]))
            replay.append(refresh and not flags[block])
        device = self._latent.device
        return Rows.of(compute, device), Rows.of(replay, device), self._token

    # running

    def _call(
        self, block: int, forward: Forward, arguments: Mapping[str, Any]
    ) -> tuple[Tensor, KeyValue | None]:
        """Run a block, noting keys and values when a token refresh may follow."""
        if Action.TOKEN not in self._task.keeps:
            return forward(**arguments), None
        with KeepKeysValues(self._model.adapter.attention_call) as mode:
            out = forward(**arguments)
        return out, mode.kept

    def _compute(
        self, block: int, forward: Forward, arguments: Mapping[str, Any], hidden: Tensor, rows: Rows
    ) -> Tensor:
        """Run a block for some samples and keep what later refreshes need. Shape [rows, tokens, dim]."""
        self._blocks_run += len(rows) * self._task.macs.blocks[block].full
        if block == 0 and self._probe is not None:
            out, kept = self._probe
            out = rows.take(out)
            kept = None if kept is None else (rows.take(kept[0]), rows.take(kept[1]))
        else:
            out, kept = self._call(block, forward, self._model.rows_of(arguments, rows.take))
        if kept is not None:
            self._state.keys_values.store(block, kept, rows)
        if Action.BLOCK in self._task.keeps:
            self._record(block, out - rows.take(hidden), rows)
        return out

    def _record(self, block: int, residual: Tensor, rows: Rows) -> None:
        """Keep a block's residual: of full steps only (as published), of every step for a table."""
        if self._fixed_blocks or len(self._full) == len(rows):
            self._state.residuals.record(block, residual, rows)
        elif len(self._full):
            full = set(self._full.members)
            inside = [i for i, row in enumerate(rows.members) if row in full]
            index = torch.tensor(inside, device=residual.device)
            self._state.residuals.record(block, residual.index_select(0, index), self._full)

    def _refresh(
        self, block: int, forward: Forward, arguments: Mapping[str, Any], hidden: Tensor, rows: Rows
    ) -> Tensor:
        """Run a block for the chosen tokens of some samples. Shape [rows, tokens, dim]."""
        chosen = self._tokens
        if chosen is None:
            raise RuntimeError("a token refresh without chosen tokens")
        self._blocks_run += len(rows) * self._task.macs.blocks[block].at(chosen.shape[1])
        part = self._model.rows_of(arguments, rows.take)
        name = self._model.adapter.hidden
        before = part[name]
        part[name] = gather_tokens(before, chosen)
        kept = self._state.keys_values.take(block, rows)
        with RefreshKeysValues(self._model.adapter.attention_call, kept, chosen) as mode:
            out = forward(**part)
        if mode.kept is not None:
            self._state.keys_values.store(block, mode.kept, rows)
        return scatter_tokens(before, chosen, out)

    # finishing

    def _finish(self, out: Tensor) -> Tensor:
        """Fill what was not computed with the prediction, and keep the new residuals."""
        state, entered = self._state, self._input
        if entered is None:
            raise RuntimeError("the last block ran before the first")
        if len(self._skip) or len(self._token):
            out = self._fill(out, entered)
        if len(self._computed) and not self._task.keeps_residual:
            state.note_residual(None)
            self._choose_blocks()
        elif len(self._computed):
            residual = self._computed.take(out) - self._computed.take(entered)
            state.history.push(residual, float(self._task.info.step), self._computed)
            nonfinite = [decision.nonfinite for decision in self.decisions]
            if any(nonfinite):
                state.history.restart(Rows.of(nonfinite, residual.device))
            state.note_residual(state.history.newest)
            self._note_tokens()
            self._choose_blocks()
        return out

    def _fill(self, out: Tensor, entered: Tensor) -> Tensor:
        policy, at = self._task.policy, float(self._task.info.step)
        predicted = entered + self._state.history.predict(lambda times: weights(policy.predictor, times, at))
        if self._skip.all:
            return predicted
        if not len(self._skip) and self._token.all and self._tokens is not None:
            return scatter_tokens(predicted, self._tokens, gather_tokens(out, self._tokens))
        out = out.clone()
        if len(self._skip):
            self._skip.put(out, self._skip.take(predicted))
        if len(self._token) and self._tokens is not None:
            fresh = gather_tokens(self._token.take(out), self._tokens)
            self._token.put(out, scatter_tokens(self._token.take(predicted), self._tokens, fresh))
        return out

    def _note_tokens(self) -> None:
        """Update the change and the age of the tokens that were computed."""
        state = self._state
        if Action.TOKEN not in self._task.keeps and not len(self._token):
            return
        change = state.history.change()
        if change is None:
            return
        whole = Rows.of([d.action in (Action.FULL, Action.BLOCK) for d in self.decisions], change.device)
        state.tokens.note_all(change, whole)
        if self._tokens is not None:
            state.tokens.note_chosen(change, self._token, self._tokens)

    def _choose_blocks(self) -> None:
        """After a full step: which blocks a later refresh recomputes; drop what nobody replays."""
        state = self._state
        if Action.BLOCK not in self._task.keeps or not len(self._full) or self._fixed_blocks:
            return
        sizes = state.residuals.sizes()
        for row in self._full.members:
            rule = self._task.policy.block
            state.compute_flags[row] = select_blocks(sizes[row], self._model.kinds, rule)
        if self._full.all:
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
        extra = rows * table.modulation if self._modulated else 0.0
        if self._probe is not None:  # samples that did not compute the first block anyway
            extra += (rows - len(self._work_of(0)[0])) * table.blocks[0].full
        return rows * table.outside + self._blocks_run + extra


_ALWAYS = Policy.from_pattern("F")
