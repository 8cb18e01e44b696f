"""The evaluator: what a worker can do. One pipeline, loaded once, one policy after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from autotune.scoring.applied import Cache, PolicyCache, Work
from autotune.scoring.case import Case
from autotune.scoring.cost import CostModel
from autotune.scoring.cost_check import check_cost
from autotune.scoring.cost_count import Subject, count_cost
from autotune.scoring.cost_fit import fit_cost
from autotune.scoring.drawn import Drawn, as_pictures
from autotune.scoring.environment import device_name, environment
from autotune.scoring.latency import WorkerFloor, paired
from autotune.scoring.learning import LEARNERS
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.measurement import Measurement, Pictures, Quality
from autotune.scoring.nets.loaded import load_nets
from autotune.scoring.nets.spec import MetricsSpec
from autotune.scoring.pipeline import ModelSpec, PipelineRunner
from autotune.scoring.profile import Profile
from autotune.scoring.profiling import take_profile
from autotune.scoring.reference import ReferenceStore
from autotune.scoring.sampling import REFERENCE, Sampling
from autotune.scoring.scores import Values, joined, paired_values
from autotune.scoring.sensitivity import probe
from xslim.policy.policy import Policy
from xslim.policy.preset import Preset
from xslim.runtime.signature import describe_sampling


class Evaluator(Protocol):
    """What the search asks of a worker."""

    @property
    def device(self) -> str:
        """Name of the GPU or processor; latencies are compared on one kind only."""
        ...

    def evaluate(
        self,
        policy: Policy | Preset,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
    ) -> Measurement:
        """Draw cases under a policy; measure quality, and latency in so many A B B A rounds.

        A policy whose executed trace is in `timed_traces` did work that was timed before: no latency. A
        preset has to fit the model and the request, or a RequestMismatchError says why not. Where the
        candidate is sampled otherwise than the reference, its compute is still relative to the reference's.
        """
        ...

    def baseline(self, cases: Sequence[Case], timing_rounds: int) -> Measurement:
        """Measure the uncached model against itself: features of the references, and the A/A floor."""
        ...

    def profile(self, cases: Sequence[Case]) -> Profile:
        """Take the profile, all but the sensitivity."""
        ...

    def probe(self, cases: Sequence[Case], step: int) -> float:
        """Hold the residual at one step; return the root mean squared error of the pictures."""
        ...

    def draw(self, policy: Policy | Preset | None, cases: Sequence[Case], sampling: Sampling) -> Pictures:
        """Draw cases under a policy; without one the uncached references."""
        ...

    def learn(self, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
        """Fit or train on these cases what a policy lacks."""
        ...

    def cost_model(self, cases: Sequence[Case], patterns: int) -> CostModel:
        """Fit what a request of these cases costs; measure the error on so many unseen schedules."""
        ...


@dataclass(frozen=True, slots=True)
class EvaluatorSpec:
    """How a worker builds its evaluator; small enough to send.

    Attributes:
        model: what is run.
        metrics: networks of the metrics.
        references: folder of the reference store.
        threads: CPU threads of the worker; None leaves PyTorch's choice.
    """

    model: ModelSpec
    metrics: MetricsSpec
    references: str
    threads: int | None = None

    def build(self) -> Evaluator:
        """Load the pipeline and the metrics' networks."""
        return PipelineEvaluator(self)


class PipelineEvaluator:
    """Runs a real pipeline.

    Raises:
        ConfigError: the model or a network of the metrics cannot be loaded.
    """

    def __init__(self, spec: EvaluatorSpec) -> None:
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        self._runner = PipelineRunner(spec.model)
        self._nets = load_nets(spec.metrics, self._runner.device)
        self._store = ReferenceStore(Path(spec.references), self._runner)
        self._floor = WorkerFloor(self._runner)

    @property
    def device(self) -> str:
        """Name of the GPU or processor."""
        return device_name(self._runner.device)

    @property
    def runner(self) -> PipelineRunner:
        """The loaded pipeline."""
        return self._runner

    def evaluate(
        self,
        policy: Policy | Preset,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
    ) -> Measurement:
        """Measure a policy; the latency is paired with the uncached model, batch after batch."""
        return self.measure(PolicyCache(policy), cases, timing_rounds, timed_traces, sampling)

    def measure(
        self,
        cache: Cache,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
        seen: Callable[[Drawn], None] | None = None,
        floor: float | None = None,
    ) -> Measurement:
        """Measure any cache as `evaluate` does a policy.

        `seen` gets what each batch draws; `floor` is the A/A floor where it is known, else it is measured.
        """
        quality, sampled = self._quality(cache, cases, sampling, seen)
        latency = None
        if timing_rounds and quality.trace_sha256 not in timed_traces:
            floor = self._floor.value(cases) if floor is None else floor
            latency = paired(self._runner, cases, cache, timing_rounds, floor, sampling)
        return Measurement(quality, latency, self._environment(), sampled)

    def baseline(self, cases: Sequence[Case], timing_rounds: int) -> Measurement:
        """Measure the uncached model against itself; draws the references that are missing."""
        quality, _ = self._quality(None, cases, REFERENCE)
        latency = self._floor.measure(cases, max(1, timing_rounds))
        return Measurement(quality, latency, self._environment())

    def profile(self, cases: Sequence[Case]) -> Profile:
        """Take the profile, all but the sensitivity."""
        return take_profile(self._runner, cases)

    def probe(self, cases: Sequence[Case], step: int) -> float:
        """Hold the residual at one step; return the root mean squared error of the pictures."""
        return probe(self._runner, cases, self._store.outputs(cases), step)

    def draw(self, policy: Policy | Preset | None, cases: Sequence[Case], sampling: Sampling) -> Pictures:
        """Draw cases under a policy; uncached they are the references."""
        drawn = []
        for batch in self._runner.batches(cases):
            if policy is None:
                drawn.append(as_pictures(self._store.outputs(batch).images))
                continue
            with (
                self._runner.sampled(sampling),
                PolicyCache(policy).applied(self._runner, batch, timed=False) as applied,
            ):
                drawn.append(as_pictures(applied.runner.draw(batch).images))
        return np.concatenate(drawn)

    def learn(self, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
        """Fit or train on these cases what a policy lacks.

        Raises:
            ConfigError: the learner is unknown, or the model or policy has not what it needs.
        """
        return LEARNERS[lesson.name](self._runner, lesson, given, cases)

    def cost_model(self, cases: Sequence[Case], patterns: int) -> CostModel:
        """Count and time the requests of one batch of cases."""
        subject = Subject.of(self._runner, next(self._runner.batches(cases)))
        return check_cost(subject, fit_cost(subject, count_cost(subject)), patterns)

    def _environment(self) -> dict[str, str]:
        runner = self._runner
        return environment(runner.device, runner.pipe.transformer, runner.spec.compile)

    def _quality(
        self,
        cache: Cache | None,
        cases: Sequence[Case],
        sampling: Sampling,
        seen: Callable[[Drawn], None] | None = None,
    ) -> tuple[Quality, dict[str, Any] | None]:
        """The pictures of a cache, and what its signature tells of another sampling."""
        parts: list[tuple[Values, Values]] = []
        done: list[tuple[Work, int]] = []
        held, drawing, sampled = 0, 0.0, None
        share = sampling.steps(self._runner.spec.num_steps) / self._runner.spec.num_steps
        for batch in self._runner.batches(cases):
            drawn = None
            if cache is not None:  # before the reference: a preset of another model costs no drawing
                start = time.perf_counter()
                with (
                    self._runner.sampled(sampling),
                    cache.applied(self._runner, batch, timed=False) as applied,
                ):
                    drawn = applied.runner.draw(batch)
                    if sampling != REFERENCE:
                        sampled = describe_sampling(self._runner.pipe.scheduler, self._runner.num_steps)
                if not drawn.images.isfinite().all():
                    raise RuntimeError("the policy draws values that are not finite")
                drawing += time.perf_counter() - start
                done.append((applied.work(), len(batch)))
                held = max(held, applied.held_bytes)
                if seen is not None:
                    seen(drawn)
            reference = self._store.outputs(batch)
            prompts = [case.prompt for case in batch]
            parts.append(paired_values(drawn or reference, reference, self._nets, prompts))
        weights = sum(n for _, n in done)
        filled_by = None if cache is None else cache.filled_by
        traces = [work.trace for work, _ in done]
        quality = Quality(
            cases=tuple(cases),
            rows=joined([rows for rows, _ in parts]),
            features=joined([features for _, features in parts]),
            compute_fraction=sum(work.compute_fraction * share * n for work, n in done) / weights
            if done
            else 1.0,
            actions=done[0][0].actions if done else "F" * self._runner.num_steps,
            trace_sha256=sha256(repr((traces, filled_by, sampling.scheduler)).encode()).hexdigest(),
            held_bytes=held,
            wall_s=drawing,
        )
        return quality, sampled
