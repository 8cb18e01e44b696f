"""One call of the transformer: decides, at the first block at the latest, then does what was decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xslim.policy.controller import decide
from xslim.policy.decision import Action, Decision
from xslim.policy.policy import Policy, Table
from xslim.policy.selection import select_blocks
from xslim.runtime.block_runner import BlockRunner, Forward, StepTask
from xslim.runtime.branch import BranchState, TextShape
from xslim.runtime.calls import BlockCall, Streams
from xslim.runtime.indicators import Features, Measured
from xslim.runtime.model import LiveModel
from xslim.runtime.plan import Plan
from xslim.runtime.predictors import predict
from xslim.runtime.rows import Rows
from xslim.runtime.tokens import gather_tokens, random_tokens, scatter_tokens


class Step:
    """The blocks of one call. Every block sees full-shaped tensors; what runs inside may be a part."""

    def __init__(self, model: LiveModel, state: BranchState, task: StepTask, latent: Tensor) -> None:
        self._model = model
        self._state = state
        self._task = task
        self._latent = latent
        self._input: Tensor | None = None
        self._image_tokens: int | None = None
        self._measured = 0.0  # MACs of a sample that measuring signals and correcting predictions took
        self._tokens: Tensor | None = None  # chosen tokens of the T rows, [rows, chosen]
        self._runner = BlockRunner(model, state, task)
        self._fixed_blocks = isinstance(task.policy.controller, Table)
        self._authors = task.policy.parity == "authors"
        self._finished = False
        self._with_text = True
        self._decided = task.bypass
        self.decisions = (Decision(Action.FULL, "blocks left out"),) * state.rows
        self.readings: tuple[dict[str, float], ...] = ({},) * state.rows

    def embed_text(self, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Run the text embedder, or return a placeholder where no block will read the text.

        Whether one will is known here only where no signal of a tensor is measured.
        """
        state = self._state
        if not self._decided and not state.indicators:
            self._decide({})
        if state.text is not None and all(done.action is Action.SKIP for done in self.decisions):
            self._with_text = False
            return state.text.placeholder()
        text: Tensor = forward(*args, **kwargs)
        state.text = TextShape(text.shape, text.dtype, text.device)
        return text

    def run_block(self, block: int, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Run one block for the samples and tokens that need it. Returns what the block would return."""
        call = self._model.call(block, args, kwargs, self._image_tokens)
        if block == 0:
            self._begin(call, forward)
        if self._task.bypass or self._input is None:
            if not self._with_text:
                raise RuntimeError("the first block was left out at a step whose text was not embedded")
            return call.run(forward)
        out = self._runner.run(block, call, forward, self._plan, self._tokens)
        if block == len(self._model.blocks) - 1:
            finished = self._finish(out.image)
            out = out if finished is out.image else Streams(finished, out.text)
        return call.pack(out)

    # deciding

    def _begin(self, call: BlockCall, forward: Forward) -> None:
        state, task = self._state, self._task
        self._input = call.streams.image
        self._image_tokens = call.image_tokens
        if task.bypass:
            self.decisions = (Decision(Action.FULL, "policy does not fit"),) * state.rows
            self.readings = ({},) * state.rows
            return
        if not self._decided:
            self._decide(self._measure(call, forward))
        self._plan = Plan(self.decisions, state.compute_flags, call.streams.image.device)
        self._tokens = self._chosen(call)

    def _decide(self, found: Mapping[str, Measured | None]) -> None:
        """Decide for every sample by what was measured."""
        state, task = self._state, self._task
        self.readings = self._read(found)
        decisions = []
        for row, reading in enumerate(self.readings):
            decision, after = decide(task.policy, state.controllers[row], task.info, reading)
            if not self._can(decision, row):
                decision = replace(decision, action=Action.FULL, reason="nothing kept", err=0.0)
                _, after = decide(_ALWAYS, state.controllers[row], task.info, {})
            decisions.append(decision)
            state.controllers[row] = after
        self.decisions = tuple(decisions)
        self._decided = True

    def _chosen(self, call: BlockCall) -> Tensor | None:
        """The tokens that the T samples recompute, [rows, chosen]."""
        rows, policy = self._plan.token, self._task.policy
        if not len(rows) or policy.token.select == "change":
            return self._state.tokens.select(rows, policy)
        chosen = random_tokens(call.image_tokens, policy, self._task.info.step, call.streams.image.device)
        return chosen.expand(len(rows), -1)

    def _measure(self, call: BlockCall, forward: Forward) -> dict[str, Measured | None]:
        """Measure all signals of all samples."""
        state, task = self._state, self._task

        def modulated() -> Tensor:
            self._measured += self._task.macs.modulation
            return self._model.modulated(call)

        def probe() -> Tensor:
            return self._runner.run_probe(call, forward).image - call.streams.image

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
            task.policy.indicator.compare,
        )
        return {name: i.measure(features) for name, i in state.indicators.items()}

    def _read(self, found: Mapping[str, Measured | None]) -> tuple[dict[str, float], ...]:
        """Read signals and health of all samples; one host synchronisation, none on CUDA without signals."""
        state = self._state
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
            times = self._state.history.times
            known = bool(times) and len(times[row]) >= self._task.policy.token.history
            return known and self._state.keys_values.complete(len(self._model.blocks))
        if decision.action is Action.SKIP:
            return bool(self._state.history.times and self._state.history.times[row])
        if decision.action is Action.BLOCK:
            return self._fixed_blocks or self._state.compute_flags[row] is not None
        return True

    # finishing

    def _finish(self, out: Tensor) -> Tensor:
        """Fill what was not computed with the prediction, and keep the new residuals."""
        state, entered = self._state, self._input
        if entered is None:
            raise RuntimeError("the last block ran before the first")
        self._finished = True
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
        task = self._task
        predicted = entered + predict(task.policy, self._state.history, task.info, task.network)
        if task.network is not None and task.macs.counted:
            self._measured += task.network.macs(entered.shape[1])
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
        if self._task.policy.token.select == "random":
            return
        change = state.history.change()
        if change is None:
            return
        state.tokens.note_all(change, self._plan.computed if self._authors else self._plan.whole)
        if self._tokens is not None and not self._authors:
            state.tokens.note_chosen(change, self._plan.token, self._tokens)

    def _choose_blocks(self) -> None:
        """After a full step: which blocks a later refresh recomputes; drop what nobody replays."""
        state, keeps = self._state, self._task.keeps
        if self._plan.full.all and Action.TOKEN not in keeps:
            state.forget_tokens()
        if self._plan.full.all and Action.BLOCK not in keeps:
            state.forget_blocks()
        if not len(self._plan.full) or self._fixed_blocks or Action.BLOCK not in keeps:
            return
        rule, blocks = self._task.policy.block, len(self._model.blocks)
        ends = rule.at_ends(blocks)
        if ends is not None:  # known without reading sizes, which waits for the device
            for row in self._plan.full.members:
                state.compute_flags[row] = ends
        else:
            sizes = state.residuals.sizes(blocks, state.rows)
            for row in self._plan.full.members:
                state.compute_flags[row] = select_blocks(sizes[row], self._model.kinds, rule)
        if self._plan.full.all:
            kept = [flags for flags in state.compute_flags if flags is not None]
            replayed = {i for flags in kept for i, compute in enumerate(flags) if not compute}
            state.residuals.keep_only(replayed)

    def observe(self, output: Tensor) -> None:
        """Show the transformer's output [batch, ...] to the signals that need it."""
        actions = tuple(decision.action for decision in self.decisions)
        for indicator in self._state.indicators.values():
            indicator.observe(output, actions)

    @property
    def whole(self) -> bool:
        """Whether the call ran through the first and the last block, where reuse begins and ends."""
        return self._task.bypass or self._finished

    @property
    def overwritten(self) -> int | None:
        """A block that wrote into its own input, or None."""
        return self._runner.overwritten

    @property
    def macs(self) -> float:
        """MACs that ran, over all samples."""
        rows, table = self._state.rows, self._task.macs
        if self._task.bypass or self._input is None:
            return rows * table.total
        extra = rows * self._measured
        if self._runner.probe is not None:  # samples that did not compute the first block anyway
            extra += (rows - len(self._plan.in_block(0)[0])) * table.blocks[0].full
        outside = table.outside if self._with_text else table.outside - table.text
        return rows * outside + self._runner.macs + extra


_ALWAYS = Policy.from_pattern("F")
