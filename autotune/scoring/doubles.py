"""Evaluators for tests of the search: no model, instant, and able to fail. Public on purpose."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from autotune.scoring.case import Case
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.measurement import Latency, Measurement, Pictures, Quality
from autotune.scoring.sampling import REFERENCE, Sampling
from xslim.policy.calibration import Calibration
from xslim.policy.controller import FRESH, decide
from xslim.policy.decision import Action, StepInfo
from xslim.policy.policy import SIGNALS, Policy
from xslim.policy.preset import ModelSignature, Preset

if TYPE_CHECKING:  # these load torch
    from autotune.scoring.cost import CostModel
    from autotune.scoring.evaluator import Evaluator
    from autotune.scoring.profile import Profile

COST = {Action.FULL: 1.0, Action.BLOCK: 0.6, Action.TOKEN: 0.5, Action.SKIP: 0.02}
DIM = 8


@dataclass(frozen=True, slots=True)
class FormulaEvaluator:
    """Scores a policy by a formula on the actions it takes on a fixed residual curve.

    Attributes:
        num_steps: denoising steps of the imagined model.
        seconds: that a measurement takes.
        device: what it says it runs on.
    """

    num_steps: int = 50
    seconds: float = field(default=0.0, kw_only=True)
    device: str = field(default="formula", kw_only=True)

    def curve(self) -> np.ndarray:
        """Relative change of the residual at each step; large at both ends."""
        step = np.arange(self.num_steps)
        return 0.02 + 0.3 * np.exp(-step / 4) + 0.1 * np.exp((step - self.num_steps + 1) / 3)

    def actions(self, policy: Policy | Preset) -> str:
        """Run the real controller on the curve."""
        policy = policy.policy if isinstance(policy, Preset) else policy
        state, letters = FRESH, []
        for step, change in enumerate(self.curve()):
            reading = dict.fromkeys(policy.signals, float(change)) if step else {}
            decision, state = decide(policy, state, StepInfo(step, self.num_steps), reading)
            letters.append(decision.action)
        return "".join(letters)

    def evaluate(
        self,
        policy: Policy | Preset,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
    ) -> Measurement:
        """Error grows with the distance to the last computed step, and with the steps left out."""
        time.sleep(self.seconds)
        steps = sampling.steps(self.num_steps)
        taken = replace(self, num_steps=steps)
        actions, drift, error = taken.actions(policy), 0.0, 1e-4 * (1 + abs(1 - self.num_steps / steps))
        for letter, change in zip(actions, taken.curve(), strict=True):
            drift = 0.0 if letter == Action.FULL else drift + change * (1 if letter == Action.SKIP else 0.3)
            error += drift**2 / steps
        noise = np.array([np.random.default_rng(case.seed).normal(0, 0.1) for case in cases])
        psnr = np.minimum(100.0, -10 * np.log10(error) + noise)
        rows = {"psnr": psnr, "ssim": 1 - 10 ** (-psnr / 20), "lpips": 10 ** (-psnr / 20)}
        cost = float(sum(COST[Action(letter)] for letter in actions)) / self.num_steps
        features = np.stack([np.random.default_rng(c.seed).normal(size=DIM) for c in cases]) + error
        trace = sha256(f"{actions}{sampling.scheduler or ''}".encode()).hexdigest()
        sets = {"fid": features, "kid": features}
        quality = Quality(tuple(cases), rows, sets, cost, actions, trace, 1000, 0.0)
        latency = Latency((-float(np.log(cost)),) * 2, 1.0, cost, len(cases), 0.01)
        timed = timing_rounds > 0 and quality.trace_sha256 not in timed_traces
        sampled = None if sampling == REFERENCE else {"num_steps": steps}
        return Measurement(quality, latency if timed else None, {"device": self.device}, sampled)

    def baseline(self, cases: Sequence[Case], timing_rounds: int) -> Measurement:
        """The uncached model."""
        return self.evaluate(Policy.from_pattern("F" * self.num_steps), cases, max(1, timing_rounds))

    def profile(self, cases: Sequence[Case]) -> Profile:
        """A profile whose residuals follow the curve along one direction."""
        from autotune.scoring.profile import Profile

        position = np.concatenate([[1.0], 1.0 + np.cumsum(self.curve()[1:])])
        progress = tuple(float(p) for p in np.linspace(0, 1, self.num_steps))
        return Profile(
            signature=ModelSignature(family="formula", transformer="Formula", num_steps=self.num_steps),
            gram=np.outer(position, position)[None],
            change=self.curve()[1:],
            sensitivity=np.ones(self.num_steps),
            calibration={
                "step_table": Calibration(
                    x=progress, y=tuple(float(v) for v in self.curve() * self.num_steps)
                ),
                "gamma": Calibration(x=progress, y=tuple(float(p) for p in position)),
            },
            fit={"step_table": 1.0},
            signals=dict.fromkeys(SIGNALS, self.curve()[1:, None]),
            cost=self.cost_model(cases, 0),
        )

    def probe(self, cases: Sequence[Case], step: int) -> float:
        """The residual moves by its curve, and every step matters alike."""
        return float(self.curve()[step])

    def draw(self, policy: Policy | Preset | None, cases: Sequence[Case], sampling: Sampling) -> Pictures:
        """Grey pictures, the darker the fewer steps were computed."""
        full = 1.0 if policy is None else self.actions(policy).count("F") / self.num_steps
        return np.full((len(cases), 8, 8, 1), round(255 * full), dtype=np.uint8)

    def learn(self, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
        """There is nothing to learn."""
        return given

    def cost_model(self, cases: Sequence[Case], patterns: int) -> CostModel:
        """Ten equal blocks, whose skip costs as in `COST`."""
        from autotune.scoring.cost import CostModel
        from autotune.scoring.cost_parts import BlockCost, BranchCost

        outside = COST[Action.SKIP]
        block = BlockCost(fixed=0.0, per_token=(1 - outside) / 1000, tokens=100)
        branch = BranchCost(
            name="default",
            rows=max(1, len(cases)),
            total=1.0,
            modulation=0.0,
            embedding=0.0,
            text=0.0,
            blocks=(block,) * 10,
            changes=(((1.0,) * 10,) * max(1, len(cases)),) * self.num_steps,
        )
        return CostModel(
            family="formula",
            transformer="Formula",
            batch=max(1, len(cases)),
            num_steps=self.num_steps,
            kinds=("double",) * 10,
            branches=(branch,),
        )


def on_purpose() -> Exception:
    """What a policy at fault raises."""
    return RuntimeError("failing on purpose")


@dataclass(frozen=True, slots=True)
class FailingEvaluator:
    """Wraps another evaluator and fails on chosen policies.

    Attributes:
        inner: does the work.
        fails: whether to fail on a policy.
        kill: end the process instead of raising.
        error: makes what is raised.
    """

    inner: Evaluator
    fails: Callable[[Policy], bool]
    kill: bool = False
    error: Callable[[], Exception] = on_purpose

    @property
    def device(self) -> str:
        """As the inner evaluator."""
        return self.inner.device

    def evaluate(
        self,
        policy: Policy | Preset,
        cases: Sequence[Case],
        timing_rounds: int,
        timed_traces: frozenset[str] = frozenset(),
        sampling: Sampling = REFERENCE,
    ) -> Measurement:
        """Fail, or let the inner evaluator work."""
        if self.fails(policy.policy if isinstance(policy, Preset) else policy):
            if self.kill:
                os._exit(1)
            raise self.error()
        return self.inner.evaluate(policy, cases, timing_rounds, timed_traces, sampling)

    def baseline(self, cases: Sequence[Case], timing_rounds: int) -> Measurement:
        """As the inner evaluator."""
        return self.inner.baseline(cases, timing_rounds)

    def profile(self, cases: Sequence[Case]) -> Profile:
        """As the inner evaluator."""
        return self.inner.profile(cases)

    def probe(self, cases: Sequence[Case], step: int) -> float:
        """As the inner evaluator."""
        return self.inner.probe(cases, step)

    def draw(self, policy: Policy | Preset | None, cases: Sequence[Case], sampling: Sampling) -> Pictures:
        """As the inner evaluator."""
        return self.inner.draw(policy, cases, sampling)

    def learn(self, lesson: Lesson, given: Learned, cases: Sequence[Case]) -> Learned:
        """As the inner evaluator."""
        return self.inner.learn(lesson, given, cases)

    def cost_model(self, cases: Sequence[Case], patterns: int) -> CostModel:
        """As the inner evaluator."""
        return self.inner.cost_model(cases, patterns)


def device_broken() -> Exception:
    """What PyTorch raises once a kernel has read where it may not; every later call raises it again."""
    return RuntimeError("CUDA error: an illegal memory access was encountered")


def device_full() -> Exception:
    """What PyTorch's allocator raises when it refuses."""
    import torch

    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
