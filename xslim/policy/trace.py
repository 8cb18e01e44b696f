"""Trace: what was decided and computed at every step of a request."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field

from xslim.policy.decision import Action, Decision


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One call of the transformer: one step of one branch, all its samples.

    Attributes:
        step: index of the denoising step.
        branch: name of the guidance branch.
        decisions: one a sample.
        readings: raw signals, one mapping a sample.
        macs: multiply-accumulates that ran, over all samples.
        full_macs: those of the uncached call.
    """

    step: int
    branch: str
    decisions: tuple[Decision, ...]
    readings: tuple[dict[str, float], ...]
    macs: float
    full_macs: float

    @property
    def actions(self) -> str:
        """One letter a sample."""
        return "".join(decision.action for decision in self.decisions)


@dataclass(slots=True)
class Trace:
    """The steps of one request, in the order they ran."""

    records: list[StepRecord] = field(default_factory=list)

    @property
    def branches(self) -> tuple[str, ...]:
        """Branch names in the order they were first called."""
        return tuple(dict.fromkeys(record.branch for record in self.records))

    @property
    def actions(self) -> str:
        """One letter a step, of the first branch's first sample."""
        return self.actions_of(self.records[0].branch) if self.records else ""

    def actions_of(self, branch: str, sample: int = 0) -> str:
        """One letter a step, of one sample of one branch."""
        return "".join(record.decisions[sample].action for record in self.records if record.branch == branch)

    @property
    def all_actions(self) -> tuple[str, ...]:
        """One string of letters for every branch and sample; equal traces did the same work."""
        return tuple(
            self.actions_of(branch, sample)
            for branch in self.branches
            for sample in range(self._samples(branch))
        )

    @property
    def compute_fraction(self) -> float:
        """Share of the uncached request's transformer MACs that ran, over all branches and samples."""
        return fraction(self.macs, self.full_macs)

    @property
    def macs(self) -> float:
        """Multiply-accumulates that ran, over all branches and samples."""
        return sum(record.macs for record in self.records)

    @property
    def full_macs(self) -> float:
        """Those of the uncached request."""
        return sum(record.full_macs for record in self.records)

    @property
    def errors(self) -> tuple[float, ...]:
        """Error estimate after each step, of the first branch's first sample."""
        own = (record for record in self.records if record.branch == self.records[0].branch)
        return tuple(record.decisions[0].err for record in own)

    @property
    def nonfinite(self) -> int:
        """Full steps that a NaN or infinite signal forced, over all samples."""
        return sum(d.nonfinite for record in self.records for d in record.decisions)

    def count(self, action: Action) -> int:
        """How often an action was taken, over all branches and samples."""
        return sum(record.actions.count(action) for record in self.records)

    def _samples(self, branch: str) -> int:
        return min(len(record.decisions) for record in self.records if record.branch == branch)

    def to_json_lines(self) -> str:
        """Return one JSON object a record."""
        return "".join(json.dumps(asdict(record)) + "\n" for record in self.records)

    @classmethod
    def from_json_lines(cls, lines: Iterable[str]) -> Trace:
        """Read what `to_json_lines` wrote."""
        trace = cls()
        for line in lines:
            data = json.loads(line)
            data["decisions"] = tuple(_decision(item) for item in data["decisions"])
            data["readings"] = tuple(data["readings"])
            trace.records.append(StepRecord(**data))
        return trace


def _decision(data: dict[str, object]) -> Decision:
    blocks = data.pop("compute_blocks")
    action = Action(str(data.pop("action")))
    flags = tuple(bool(flag) for flag in blocks) if isinstance(blocks, list) else None
    return Decision(action=action, compute_blocks=flags, **data)  # type: ignore[arg-type]


def fraction(macs: float, full_macs: float) -> float:
    """Share of the uncached compute that ran; 1 when nothing ran at all."""
    return macs / full_macs if full_macs else 1.0


@dataclass(frozen=True, slots=True)
class RequestSummary:
    """One request in `session.requests`.

    Attributes:
        steps: denoising steps that ran.
        num_steps: denoising steps of the request.
        actions: as `Trace.actions`.
        compute_fraction: as `Trace.compute_fraction`.
        nonfinite: full steps forced by NaN or inf.
        aborted: an exception, or the next request, ended it before its last step.
        mismatch: why the policy was not applied and all steps were full, or None.
        first_step: index of its first step; above 0 for requests that start in the middle.
        branches: names of its guidance branches.
        counts: letter -> how often the action was taken, over all branches and samples.
        errors: as `Trace.errors`.
        macs: as `Trace.macs`.
        full_macs: as `Trace.full_macs`.
        held_bytes: most bytes held between two of its steps.
    """

    steps: int
    num_steps: int
    actions: str
    compute_fraction: float
    nonfinite: int
    aborted: bool
    mismatch: str | None
    first_step: int = 0
    branches: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    errors: tuple[float, ...] = ()
    macs: float = 0.0
    full_macs: float = 0.0
    held_bytes: int = 0
