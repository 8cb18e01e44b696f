"""What is applied to a pipeline while it draws: a policy of ours, or any other cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import xslim
from autotune.scoring.case import Case
from autotune.scoring.pipeline import PipelineRunner
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset
from xslim.runtime.session import Session


@dataclass(frozen=True, slots=True)
class Work:
    """What the drawing of one batch did.

    Attributes:
        actions: letters of the first sample, one a step.
        compute_fraction: share of the uncached MACs that ran.
        trace: plain values; equal ones did the same work.
    """

    actions: str
    compute_fraction: float
    trace: object


class Applied(Protocol):
    """A cache that is applied now."""

    @property
    def runner(self) -> PipelineRunner:
        """What draws with it; a library that does not restore a pipeline has one of its own."""
        ...

    @property
    def held_bytes(self) -> int:
        """Most bytes held between two steps so far; 0 where that is not known."""
        ...

    def work(self) -> Work:
        """Tell what the last drawing did.

        Raises:
            RuntimeError: the cache was not applied.
        """
        ...


class Cache(Protocol):
    """Whatever saves compute."""

    def applied(
        self, runner: PipelineRunner, batch: Sequence[Case], timed: bool
    ) -> AbstractContextManager[Applied]:
        """Apply it inside, and leave the pipeline as it was.

        Args:
            runner: the uncached pipeline.
            batch: what is drawn inside.
            timed: nothing that costs time may be watched; `work` is not asked for.
        """
        ...

    @property
    def filled_by(self) -> object:
        """What fills in for a skipped computation: with equal traces, equal work."""
        ...


@dataclass(frozen=True, slots=True)
class PolicyCache:
    """A policy, or a preset that has to fit the model and the request."""

    policy: Policy | Preset

    @property
    def filled_by(self) -> object:
        """The predictor and the corrector."""
        bare = self._bare
        return bare.predictor, bare.corrector

    @contextmanager
    def applied(self, runner: PipelineRunner, batch: Sequence[Case], timed: bool) -> Iterator[Applied]:
        """Attach it inside."""
        with xslim.attach(
            runner.pipe,
            self._bare if timed else self.policy,
            num_steps=runner.num_steps,
            strict=not timed and isinstance(self.policy, Preset),
        ) as session:
            yield _Attached(runner, session)

    @property
    def _bare(self) -> Policy:
        return self.policy.policy if isinstance(self.policy, Preset) else self.policy


@dataclass(frozen=True, slots=True)
class _Attached:
    """A session of ours."""

    runner: PipelineRunner
    session: Session

    @property
    def held_bytes(self) -> int:
        return self.session.peak_held_bytes

    def work(self) -> Work:
        for request in self.session.requests:
            if request.mismatch is not None:  # it ran in full: no measurement of this policy
                raise RuntimeError(f"the policy was not applied: {request.mismatch}")
        trace = self.session.trace
        done = [(record.actions, record.macs) for record in trace.records]
        return Work(trace.actions, trace.compute_fraction, done)


def cache_of(candidate: Policy | Preset | Cache | None) -> Cache | None:
    """A candidate as a cache; None is the uncached model."""
    return PolicyCache(candidate) if isinstance(candidate, Policy | Preset) else candidate
