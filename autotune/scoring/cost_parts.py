"""The cost model's parts: what a branch's call costs in MACs, what calls cost in seconds, and the error."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

from pydantic import Field

from xslim.policy.decision import Action
from xslim.policy.document import Document
from xslim.runtime.macs import BlockMacs, MacsTable

NonNegative = Annotated[float, Field(ge=0.0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Changes = Annotated[tuple[Annotated[tuple[NonNegative, ...], Field(strict=False)], ...], Field(strict=False)]
TRUSTED = 0.2  # relative error of predicted latency above which the fit is not to be relied on


class BlockCost(Document):
    """MACs of one block for one sample; see `BlockMacs`."""

    fixed: NonNegative
    per_token: NonNegative
    tokens: Count


class BranchCost(Document):
    """One guidance branch: one call of the transformer a step.

    Attributes:
        name: as in a trace.
        rows: samples in a call.
        total: MACs of the uncached call for one sample.
        modulation: the extra MACs of measuring the modulated input, per sample.
        embedding: likewise of the embedding that modulates the first block.
        text: of `total`, what the text embedder takes; it is left out at skipped steps of policies that
            measure nothing.
        blocks: one entry a block.
        changes: mean |h_out - h_in| of the image at every step, row and block of the uncached request; they
            choose the blocks of a block refresh. [steps][rows][blocks]
    """

    name: str
    rows: Positive
    total: NonNegative
    modulation: NonNegative
    embedding: NonNegative
    text: NonNegative
    blocks: Annotated[tuple[BlockCost, ...], Field(strict=False, min_length=1)]
    changes: Annotated[tuple[Changes, ...], Field(strict=False)]

    @cached_property
    def table(self) -> MacsTable:
        """The runtime's table of this branch."""
        blocks = tuple(BlockMacs(b.fixed, b.per_token, b.tokens) for b in self.blocks)
        return MacsTable(self.total, blocks, self.modulation, self.embedding, self.text)

    @property
    def tokens(self) -> int:
        """Image tokens of a sample."""
        return max(block.tokens for block in self.blocks)

    @property
    def whole(self) -> bool:
        """Whether every block runs; skip-layer guidance leaves some out of a branch."""
        return all(block.full > 0 for block in self.table.blocks)


class CallSeconds(Document):
    """Seconds of one call of the transformer, as a sum with terms that are all at least 0.

    Attributes:
        call: every call: what surrounds the blocks, the scheduler and the controller.
        full: besides, a full step: keeping its residual.
        skip: besides, a skipped step.
        read: for every kept residual that a prediction reads.
        gmac: for 1e9 MACs in blocks that run for whole samples.
        block: besides, a block refresh.
        keep_blocks: for 1e9 MACs in blocks whose residuals are kept for a block refresh.
        token: besides, a token refresh.
        token_gmac: for 1e9 MACs in blocks that run for some tokens.
        keep_tokens: for 1e9 MACs in blocks whose keys and values are kept for a token refresh.
        uncached: a step of the bare model, all its calls.
    """

    call: NonNegative
    full: NonNegative
    skip: NonNegative
    read: NonNegative
    gmac: NonNegative
    block: NonNegative
    keep_blocks: NonNegative
    token: NonNegative
    token_gmac: NonNegative
    keep_tokens: NonNegative
    uncached: Annotated[float, Field(gt=0.0)]

    @cached_property
    def terms(self) -> dict[str, float]:
        """Seconds by the names of `terms`."""
        return {name: getattr(self, name) for name in type(self).model_fields if name != "uncached"}


class CostError(Document):
    """How far predictions are from measurements on schedules that the fit did not see.

    Attributes:
        patterns: random schedules that were run.
        latency_median: median relative error of the latency ratio.
        latency_worst: the largest.
        compute_median: median relative error of the compute fraction.
        compute_worst: the largest.
        noise: median relative difference of two uncached requests in turn, which is the machine's.
    """

    patterns: Positive
    latency_median: NonNegative
    latency_worst: NonNegative
    compute_median: NonNegative
    compute_worst: NonNegative
    noise: NonNegative

    @property
    def trusted(self) -> bool:
        """Whether predicted latencies may be relied on: their median error is at most 20 %."""
        return self.latency_median <= TRUSTED


@dataclass(frozen=True, slots=True)
class CallCost:
    """One call of the transformer under a policy.

    Attributes:
        step: denoising step.
        branch: name of the guidance branch.
        action: the action that runs.
        macs: MACs of all samples.
        full_macs: those of the uncached call.
        blocks_macs: of `macs`, those in blocks.
        keeps: actions that may follow before the next full step.
        reads: kept residuals that the prediction reads.
    """

    step: int
    branch: str
    action: Action
    macs: float
    full_macs: float
    blocks_macs: float
    keeps: frozenset[Action]
    reads: int


def terms(call: CallCost) -> dict[str, float]:
    """Return what the terms of `CallSeconds` are multiplied by for one call."""
    gmacs = call.blocks_macs / 1e9
    token = call.action is Action.TOKEN
    return {
        "call": 1.0,
        "full": float(call.action is Action.FULL),
        "skip": float(call.action is Action.SKIP),
        "read": float(call.reads),
        "gmac": 0.0 if token else gmacs,
        "block": float(call.action is Action.BLOCK),
        "keep_blocks": gmacs if call.action is Action.FULL and Action.BLOCK in call.keeps else 0.0,
        "token": float(token),
        "token_gmac": gmacs if token else 0.0,
        "keep_tokens": gmacs if not token and Action.TOKEN in call.keeps else 0.0,
    }
