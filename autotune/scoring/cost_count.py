"""Counting: the cost model's exact part, from one uncached request of a live model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import xslim
from autotune.scoring.case import Case
from autotune.scoring.cost import CostModel
from autotune.scoring.cost_parts import BlockCost, BranchCost
from autotune.scoring.environment import device_name
from autotune.scoring.pipeline import PipelineRunner
from autotune.scoring.sampling import Sampling
from xslim.policy.policy import Policy
from xslim.policy.trace import StepRecord
from xslim.runtime.macs import MacsTable
from xslim.runtime.model import LiveModel
from xslim.runtime.signature import scheduler_sigmas

log = logging.getLogger(__name__)
CALLS_KEPT = 8  # more guidance branches than any pipeline has
DIGITS = 6  # of the stored changes, which are compared with thresholds


@dataclass(frozen=True, slots=True)
class Subject:
    """A model and a way to run one request of it.

    Attributes:
        target: the pipeline, or the transformer.
        request: runs one request of so many denoising steps.
        num_steps: denoising steps of the usual request.
        batch: pictures of a request.
        device: that it computes on.
    """

    target: Any
    request: Callable[[int], object]
    num_steps: int
    batch: int
    device: torch.device

    @classmethod
    def of(cls, runner: PipelineRunner, batch: Sequence[Case]) -> Subject:
        """The requests of a loaded pipeline for one batch of cases."""

        def request(steps: int) -> object:
            with runner.sampled(Sampling(num_steps=steps)):
                return runner.draw(batch)

        return cls(
            target=runner.pipe,
            request=request,
            num_steps=runner.spec.num_steps,
            batch=len(batch),
            device=runner.device,
        )

    @property
    def transformer(self) -> nn.Module:
        """The transformer that is profiled."""
        found: nn.Module = getattr(self.target, "transformer", self.target)
        return found


@dataclass
class _Calls:
    """What is seen of the calls of one request.

    Attributes:
        arguments: of the first calls.
        changes: per call, mean |h_out - h_in| of the image, [rows] for each block that ran.
    """

    arguments: list[tuple[Any, Any]] = field(default_factory=list)
    changes: list[dict[int, Tensor]] = field(default_factory=list)


@contextmanager
def _watched(model: LiveModel) -> Iterator[_Calls]:
    """Note calls and what every block changes, with plain PyTorch hooks."""
    calls = _Calls()
    entered: list[Tensor] = []

    def root(_: Any, args: Any, kwargs: Any) -> None:
        if len(calls.arguments) < CALLS_KEPT:
            calls.arguments.append((args, kwargs))
        calls.changes.append({})

    def tokens(block: int) -> int | None:
        return None if block == 0 or not entered else entered[0].shape[1]

    def before(block: int, _: Any, args: Any, kwargs: Any) -> None:
        entered[:] = [model.call(block, args, kwargs, tokens(block)).streams.image]

    def after(block: int, _: Any, args: Any, kwargs: Any, output: Any) -> None:
        left = model.call(block, args, kwargs, entered[0].shape[1]).unpack(output).image
        change = left - entered[0]
        calls.changes[-1][block] = change.abs().mean(dim=tuple(range(1, change.dim()))).float()

    handles = [model.transformer.register_forward_pre_hook(root, with_kwargs=True)]
    for index, block in enumerate(model.blocks):
        handles.append(block.register_forward_pre_hook(partial(before, index), with_kwargs=True))
        handles.append(block.register_forward_hook(partial(after, index), with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def count_cost(subject: Subject) -> CostModel:
    """Count what the calls of a request cost; runs one uncached request. The model must be detached."""
    model, steps = LiveModel(subject.transformer), subject.num_steps
    full = Policy.from_pattern("F" * steps)
    with xslim.attach(subject.target, full, num_steps=steps) as session, _watched(model) as calls:
        subject.request(steps)
    records = session.trace.records
    ran = records[-1].step + 1  # what a pipeline makes of the steps, if it is told its own list of them
    branches, counted = [], True
    for name in session.trace.branches:
        own = [i for i, record in enumerate(records) if record.branch == name]
        changes = [calls.changes[i] for i in own]
        table = _count(model, records[own[0]], *calls.arguments[own[0]])
        counted = counted and table is not None
        branches.append(_branch(name, records[own[0]], table, changes, len(model.blocks)))
    return CostModel(
        family=model.adapter.family,
        transformer=type(subject.transformer).__name__,
        device=device_name(subject.device),
        batch=subject.batch,
        num_steps=ran,
        sigmas=_sigmas(subject, ran),
        kinds=tuple(model.kinds),
        counted=counted,
        branches=tuple(branches),
    )


def _sigmas(subject: Subject, steps: int) -> tuple[float, ...] | None:
    sigmas = scheduler_sigmas(getattr(subject.target, "scheduler", None))
    return None if sigmas is None or len(sigmas) < steps else sigmas[:steps]


def _count(model: LiveModel, record: StepRecord, args: Any, kwargs: Any) -> MacsTable | None:
    """Count one call; None where a session counts blocks instead."""
    try:
        return model.count_macs(len(record.decisions), args, kwargs)
    except Exception as error:  # whatever a model's own code raises on fake tensors, as in a session
        log.warning("cannot count MACs, the cost model counts blocks: %s", str(error).split("\n")[0][:200])
        return None


def _branch(
    name: str, record: StepRecord, table: MacsTable | None, changes: list[dict[int, Tensor]], blocks: int
) -> BranchCost:
    table = table or MacsTable.uniform(blocks)
    rows = len(record.decisions)
    zero = (0.0,) * rows
    per_step = [
        [_rounded(found[block]) if block in found else zero for block in range(blocks)] for found in changes
    ]
    return BranchCost(
        name=name,
        rows=rows,
        total=table.total,
        modulation=table.modulation,
        embedding=table.embedding,
        text=table.text,
        blocks=tuple(BlockCost(fixed=b.fixed, per_token=b.per_token, tokens=b.tokens) for b in table.blocks),
        changes=tuple(tuple(zip(*step, strict=True)) for step in per_step),
    )


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.{DIGITS}g}") for value in values.tolist())
