"""One request: the calls of one sampling run, its branches, and its trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from xslim.policy.decision import Action
from xslim.policy.policy import Policy
from xslim.policy.schedule import actions_before_next_full, residual_is_read
from xslim.policy.trace import RequestSummary, Trace
from xslim.runtime.branch import BranchState


@dataclass(frozen=True, slots=True)
class Shape:
    """What must not change within a request."""

    size: tuple[int, ...]
    dtype: str
    device: str

    @classmethod
    def of(cls, latent: Tensor) -> Shape:
        """Read it off the latent."""
        return cls(tuple(latent.shape), str(latent.dtype), str(latent.device))


@dataclass
class Request:
    """State of the request in progress.

    Attributes:
        policy: the policy in force, remapped to the request's number of steps.
        num_steps: its denoising steps.
        mismatch: why the policy is not applied, or None.
        sigmas: the scheduler's noise levels, one a step, or None.
        stamp: the scheduler's timesteps as an object; pipelines set a new one for every request.
        rising: timesteps rise from step to step.
    """

    policy: Policy
    num_steps: int
    mismatch: str | None
    sigmas: tuple[float, ...] | None = None
    stamp: object = None
    rising: bool = False
    step: int = -1
    timestep: float | None = None
    trace: Trace = field(default_factory=Trace)
    branches: dict[str, BranchState] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    aborted: bool = False
    _keeps: dict[int, frozenset[Action]] = field(default_factory=dict)

    def belongs(self, branch: str, timestep: float, shape: Shape, stamp: object) -> bool:
        """Whether a call continues this request.

        The scheduler was not set anew, time never runs back, no branch sees a step twice.
        """
        if stamp is not self.stamp:
            return False
        if self.timestep is not None and (timestep - self.timestep) * (-1 if self.rising else 1) > 0:
            return False
        if timestep == self.timestep and branch in self.seen:
            return False
        return self.shapes.get(branch, shape) == shape

    def advance(self, branch: str, timestep: float, shape: Shape) -> None:
        """Note a call; another timestep is the next step."""
        if timestep != self.timestep:
            self.step += 1
            self.timestep = timestep
            self.seen = set()
        self.seen.add(branch)
        self.shapes[branch] = shape

    def keeps(self, step: int) -> frozenset[Action]:
        """Actions that may follow a step before the next full one."""
        if step not in self._keeps:
            self._keeps[step] = actions_before_next_full(self.policy, step, self.num_steps)
        return self._keeps[step]

    @cached_property
    def history(self) -> int:
        """Computed residuals that predictions, signals and token refreshes read."""
        refreshes = any(Action.TOKEN in self.keeps(step) for step in range(self.num_steps))
        return max(self.policy.history, 2 if refreshes else 1)

    def keeps_residual(self, step: int) -> bool:
        """Whether the residual of a computed step may be read later."""
        return residual_is_read(self.policy, step, self.num_steps, self.history)

    def branch(self, name: str, rows: int) -> BranchState:
        """Return a branch's state, new at its first call."""
        if name not in self.branches:
            self.branches[name] = BranchState(self.policy, rows, self.history)
        return self.branches[name]

    @property
    def sigma(self) -> float | None:
        """Noise level of the step in progress, or None when it is not known."""
        if self.sigmas is None or self.step >= len(self.sigmas):
            return None
        return self.sigmas[self.step]

    @property
    def unfinished(self) -> bool:
        """Whether steps are left."""
        return self.step < self.num_steps - 1

    @property
    def last_step(self) -> bool:
        """Whether the step in progress is the last."""
        return not self.unfinished

    def summary(self) -> RequestSummary:
        """Sum the request up."""
        return RequestSummary(
            steps=self.step + 1,
            num_steps=self.num_steps,
            actions=self.trace.actions,
            compute_fraction=self.trace.compute_fraction,
            nonfinite=self.trace.nonfinite,
            aborted=self.aborted,
            mismatch=self.mismatch,
        )
