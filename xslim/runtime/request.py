"""One request: the calls of one sampling run, its branches, and its trace."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from xslim.policy.decision import Action
from xslim.policy.policy import Policy
from xslim.policy.schedule import actions_before_next_full, residual_is_read
from xslim.policy.trace import RequestSummary, Trace
from xslim.runtime.arrival import Arrival, Shape, Time
from xslim.runtime.branch import BranchState
from xslim.runtime.branches import Branches
from xslim.runtime.timetable import Clock, Timetable


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call stands in a request."""

    step: int
    branch: str


@dataclass
class Request:
    """State of the request in progress.

    Attributes:
        policy: the policy in force, remapped to the request's number of steps.
        num_steps: its denoising steps.
        mismatch: why the policy is not applied, or None.
        table: the scheduler's timesteps when the request began.
        start: timestep of its first call.
        shape: shape, dtype and device of its first call.
        thread: the thread that runs it.
        rising: timesteps rise from step to step.
    """

    policy: Policy
    num_steps: int
    mismatch: str | None
    table: Timetable
    start: Time
    shape: Shape
    thread: int
    rising: bool = False
    step: int = -1
    previous: int = -1  # the step before it that ran
    timestep: float | None = None
    first_step: int = 0
    steps: int = 0  # that ran
    peak_bytes: int = 0
    trace: Trace = field(default_factory=Trace)
    names: Branches = field(default_factory=Branches)
    branches: dict[str, BranchState] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)  # branches called at this step
    expected: frozenset[str] = frozenset()  # branches called at the step before
    aborted: bool = False
    reopened: bool = False
    _keeps: dict[int, frozenset[Action]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        first = self.table.first(self.start)
        self.listed = first is not None  # the calls' timesteps are the scheduler's
        self.first_step = 0 if first is None else first

    # which calls belong to it

    def first_place(self, arrival: Arrival) -> Place:
        """Where its first call stands."""
        return Place(self.first_step, arrival.context or self.names.next_name)

    def place(self, arrival: Arrival, clock: Clock) -> Place | None:
        """Where a call stands in this request; None when it begins another.

        The scheduler was not set anew, the thread, dtype, device and shape are the same, time does not run
        back, and no branch sees a step twice.

        Args:
            arrival: the call.
            clock: the scheduler at this moment.
        """
        if clock.stamp is not self.table.stamp or arrival.thread != self.thread:
            return None
        if not self.shape.fits(arrival.shape):
            return None
        counted = self._counted(arrival, clock)
        now = arrival.time.value == self.timestep if counted is None else counted == self.step
        name = arrival.context or self.names.find(arrival, self.seen if now else ())
        if name is None:
            # without a scheduler an aborted first step looks like a branch, but for its latent
            if now and not len(self.table) and not self.names.shares_latent(arrival):
                return None
            name = self.names.next_name
        if self.shapes.get(name, arrival.shape) != arrival.shape:
            return None
        if now and name not in self.seen:
            return Place(self.step, name)
        if counted is not None:
            return None if now else Place(counted, name)
        step = self._step_after(arrival.time, now)
        return None if step is None else Place(step, name)

    def _counted(self, arrival: Arrival, clock: Clock) -> int | None:
        """The step by the scheduler's own count; None when it does not count, or counts another loop.

        The count is believed when it stands at the present step or at the next one. Beyond that the
        timestep is read, which waits for the device.
        """
        step, listed = clock.step, self.table.timesteps
        if not self.listed or listed is None or step is None or not self.step <= step < len(listed):
            return None
        return step if step <= self.step + 1 or arrival.time.near(listed[step]) else None

    def _step_after(self, time: Time, now: bool) -> int | None:
        """The step of a call that is not part of the present one; None when it belongs to no later step."""
        if self.listed:
            later = self.table.after(self.step, time)
            if later is not None:
                return later
        if now or self.timestep is None or (time.value > self.timestep) is not self.rising:
            return None
        return self.step + 1

    def enter(self, arrival: Arrival, place: Place) -> None:
        """Note a call."""
        if place.step != self.step:
            self.previous, self.step = self.step, place.step
            listed = self.listed_timestep
            self.timestep = arrival.time.value if listed is None or arrival.time_was_read else listed
            self.steps += 1
            self.expected, self.seen = frozenset(self.seen), set()
        self.seen.add(place.branch)
        self.shapes[place.branch] = arrival.shape
        if arrival.context is None:
            self.names.note(place.branch, arrival)

    @property
    def listed_timestep(self) -> float | None:
        """The scheduler's timestep of the step in progress; None when its calls are told others."""
        timesteps = self.table.timesteps
        return timesteps[self.step] if self.listed and timesteps and self.step < len(timesteps) else None

    # what a step needs

    def keeps(self, step: int) -> frozenset[Action]:
        """Actions that may follow a step before the next full one."""
        if step not in self._keeps:
            self._keeps[step] = actions_before_next_full(self.policy, step, self.num_steps)
        return self._keeps[step]

    @cached_property
    def history(self) -> int:
        """Computed residuals that predictions, signals and token refreshes read."""
        refreshes = any(Action.TOKEN in self.keeps(step) for step in range(self.num_steps))
        return max(self.policy.history, self.policy.token.history if refreshes else 1)

    def keeps_residual(self, step: int) -> bool:
        """Whether the residual of a computed step may be read later."""
        return residual_is_read(self.policy, step, self.num_steps, self.history)

    def branch(self, name: str, rows: int) -> BranchState:
        """Return a branch's state, new at its first call and after steps at which it was not called."""
        state = self.branches.get(name)
        if state is None or state.step not in (self.step, self.previous):
            state = self.branches[name] = BranchState(self.policy, rows, self.history)
        state.step = self.step
        return state

    @property
    def sigma(self) -> float | None:
        """Noise level of the step in progress, or None when it is not known."""
        return self.table.sigma(self.step)

    # its end

    def refuse(self, reason: str) -> None:
        """Apply the policy no more, and free what is held."""
        self.mismatch = reason
        self.branches.clear()

    @property
    def unfinished(self) -> bool:
        """Whether steps are left."""
        return self.step < self.num_steps - 1

    @property
    def complete(self) -> bool:
        """Whether the last step ran in every branch that the step before ran in."""
        return not self.unfinished and self.seen >= self.expected

    def tensors(self) -> list[Tensor]:
        """Every cached tensor held; the caller's own tensors are kept alive, but not counted."""
        return [tensor for branch in self.branches.values() for tensor in branch.tensors()]

    def release(self) -> None:
        """Free what is held."""
        self.branches.clear()
        self.names.release()

    def summary(self) -> RequestSummary:
        """Sum the request up."""
        trace = self.trace
        return RequestSummary(
            steps=self.steps,
            num_steps=self.num_steps,
            actions=trace.actions,
            compute_fraction=trace.compute_fraction,
            nonfinite=trace.nonfinite,
            aborted=self.aborted,
            mismatch=self.mismatch,
            first_step=self.first_step,
            branches=trace.branches,
            counts={action.value: n for action in Action if (n := trace.count(action))},
            errors=trace.errors,
            macs=trace.macs,
            full_macs=trace.full_macs,
            held_bytes=self.peak_bytes,
        )
