"""What a session reports of its requests: plain data, ready for JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from xslim.policy.decision import Action
from xslim.policy.trace import RequestSummary, fraction

NEVER_SKIPPED = "never skipped"
NOT_APPLIED = "policy not applied"
LEVELS = {Action.FULL: "full", Action.BLOCK: "block", Action.TOKEN: "token", Action.SKIP: "skip"}


def shares(counts: Mapping[str, int]) -> dict[str, float]:
    """Share of the steps that each level took, over all branches and samples: the hit rates."""
    total = sum(counts.values())
    return {name: counts.get(action, 0) / total if total else 0.0 for action, name in LEVELS.items()}


def note(counts: Mapping[str, int], mismatch: bool) -> str | None:
    """What a reader should know first: the policy was not applied, or nothing was ever reused."""
    if mismatch:
        return NOT_APPLIED
    reused = any(counts.get(action, 0) for action in LEVELS if action is not Action.FULL)
    return None if reused else NEVER_SKIPPED


def request_data(request: RequestSummary) -> dict[str, Any]:
    """One request: its summary with the share of each level, and a note."""
    data = asdict(request)
    data["branches"], data["errors"] = list(request.branches), list(request.errors)
    data["shares"] = shares(request.counts)
    data["note"] = note(request.counts, request.mismatch is not None)
    return data


def request_line(request: RequestSummary) -> dict[str, Any]:
    """One request for a log: without the curves."""
    data = request_data(request)
    return {key: value for key, value in data.items() if key not in ("errors", "counts", "macs", "full_macs")}


@dataclass(slots=True)
class Totals:
    """Sums over requests."""

    requests: int = 0
    steps: int = 0
    aborted: int = 0
    mismatched: int = 0
    nonfinite: int = 0
    macs: float = 0.0
    full_macs: float = 0.0
    held_bytes: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    mismatches: Counter[str] = field(default_factory=Counter)

    def add(self, request: RequestSummary) -> None:
        """Count a request in."""
        self.requests += 1
        self.steps += request.steps
        self.aborted += request.aborted
        self.mismatched += request.mismatch is not None
        self.nonfinite += request.nonfinite
        self.macs += request.macs
        self.full_macs += request.full_macs
        self.held_bytes = max(self.held_bytes, request.held_bytes)
        self.counts.update(request.counts)
        if request.mismatch is not None:
            self.mismatches[request.mismatch] += 1

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            requests=self.requests + other.requests,
            steps=self.steps + other.steps,
            aborted=self.aborted + other.aborted,
            mismatched=self.mismatched + other.mismatched,
            nonfinite=self.nonfinite + other.nonfinite,
            macs=self.macs + other.macs,
            full_macs=self.full_macs + other.full_macs,
            held_bytes=max(self.held_bytes, other.held_bytes),
            counts=self.counts + other.counts,
            mismatches=self.mismatches + other.mismatches,
        )

    def to_data(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "requests": self.requests,
            "steps": self.steps,
            "aborted": self.aborted,
            "mismatched": self.mismatched,
            "mismatches": dict(self.mismatches),
            "nonfinite": self.nonfinite,
            "compute_fraction": fraction(self.macs, self.full_macs),
            "held_bytes": self.held_bytes,
            "shares": shares(self.counts),
            "note": note(self.counts, 0 < self.requests == self.mismatched) if self.requests else None,
        }
