"""The scheduler: turns what a search asks for, such as eleven computed steps, into a policy of the profile.

Static schedules start from the exact optimum of a sum of gaps (`gaps`) and from an even one. Single computed
steps are moved as long as the error model, which also knows that errors add up or cancel, finds it better,
and the better of the two ends is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from autotune.scoring.profile import Array, Profile
from autotune.search.asked import Even, Rule, Schedule
from autotune.search.error_model import Weighting, log_error
from autotune.search.gaps import MAX_GAP, Plan, evenly, gap_costs, plans, step_errors
from autotune.search.moves import Mover
from autotune.search.replay import Replay
from xslim.policy.controller import ControllerState, error_growth
from xslim.policy.decision import Action, StepInfo
from xslim.policy.policy import DualThreshold, Pattern, Policy, Predictor

WINDOW = 10  # steps whose growth is summed at most, where a policy allows any number of skips
PLAIN = Weighting(coherence=0.0)


@dataclass(frozen=True)
class Scheduler:
    """Computes schedules and thresholds for one profile; remembers what it computed.

    Attributes:
        profile: at the number of steps of the request.
        max_gap: skips in a row at most.
        reference: as of `Replay`.
    """

    profile: Profile
    max_gap: int = MAX_GAP
    reference: Profile | None = None
    replay: Replay = field(init=False)
    _errors: dict[Predictor, Array] = field(default_factory=dict)
    _plans: dict[tuple[Predictor, Weighting, Rule], list[Plan]] = field(default_factory=dict)
    _found: dict[tuple[Predictor, int, Weighting, Rule], tuple[int, ...]] = field(default_factory=dict)
    _matrices: dict[Weighting, Array] = field(default_factory=dict)
    _movers: dict[Predictor, Mover] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "replay", Replay(self.profile, self.reference))

    def pattern(self, policy: Policy, asked: Schedule) -> str:
        """Return one letter a step: the best computed steps, and refreshes where they help most.

        Args:
            policy: its predictor, block and token parts are used.
            asked: how many of what, and how steps weigh.
        """
        weighting = asked.weighting
        steps = self.computed_steps(policy.predictor, asked.full_steps, weighting, asked.rule)
        letters = [str(Action.SKIP)] * self.profile.num_steps
        for step in steps:
            letters[step] = Action.FULL
        return "".join(self._refreshed(policy, letters, steps, asked, self._matrix(weighting)))

    def computed_steps(
        self, predictor: Predictor, full_steps: int, weighting: Weighting = PLAIN, rule: Rule | Even = "sum"
    ) -> tuple[int, ...]:
        """Return which steps to compute, so many in all, first one included.

        Args:
            predictor: what fills the skipped steps.
            full_steps: number of computed steps; clipped to what a schedule can have.
            weighting: how steps weigh; without coherence the result is the exact optimum.
            rule: of which sum of gaps or worst gap; or `even`.
        """
        if rule == "even":
            return evenly(weighting.sensitivity(np.ones(self.profile.num_steps)), full_steps, self.max_gap)
        planned = self.planned(predictor, weighting, rule)
        fewest = next(count for count, plan in enumerate(planned) if plan.steps)
        count = min(max(full_steps, fewest), self.profile.num_steps)
        if weighting.coherence == 0.0:
            return planned[count].steps
        key = (predictor, count, weighting, rule)
        if key not in self._found:
            matrix = self._matrix(weighting)
            starts = (planned[count].steps, evenly(np.ones(self.profile.num_steps), count, self.max_gap))
            mover = self._mover(predictor)
            moved = [mover.improved(start, matrix) for start in dict.fromkeys(starts)]
            self._found[key] = min(moved, key=lambda found: found[1])[0]
        return self._found[key]

    def planned(self, predictor: Predictor, weighting: Weighting = PLAIN, rule: Rule = "sum") -> list[Plan]:
        """The exact optimum for every number of computed steps: of the sum of gaps, or of the worst one."""
        key = (predictor, replace(weighting, coherence=0.0), rule)
        if key not in self._plans:
            sensitivity = weighting.sensitivity(self.profile.sensitivity)
            self._plans[key] = plans(gap_costs(self._step_errors(predictor), sensitivity), rule)
        return self._plans[key]

    def log_error(self, policy: Policy, weighting: Weighting) -> float:
        """Logarithm of the error model's estimate for any policy."""
        matrix = weighting.matrix(self.replay.whole.sensitivity)
        return float(log_error(self.replay.run(policy).products, matrix))

    def threshold(self, policy: Policy, quantile: float) -> float:
        """Return the critical error that a share of the recorded windows stay below.

        A window is a run of steps that one computation could serve, up to the policy's limits; its error is
        the sum of the policy's own estimate of growth over it. An estimate that does not accumulate has
        windows of one step. 0 computes every step.

        Args:
            policy: an online one; its indicator and its limit of skips are used.
            quantile: the share, 0 to 1.

        Raises:
            ConfigError: the profile does not tell the policy's signals.
        """
        self.replay.check(policy)
        growth = self._growth(policy)
        longest = min(_longest_window(policy), growth.shape[0])
        sums = [
            np.lib.stride_tricks.sliding_window_view(growth, length, axis=0).sum(-1).ravel()
            for length in range(1, longest + 1)
        ]
        known = np.concatenate(sums)
        known = known[np.isfinite(known)]
        # a polynomial may be negative, a threshold may not
        return max(0.0, float(np.quantile(known, quantile))) if len(known) and quantile > 0 else 0.0

    def _growth(self, policy: Policy) -> Array:
        """The policy's estimate of growth at every step, [steps - 1, rows], NaN where undefined."""
        steps, rows = self.profile.num_steps, len(self.profile.gram)
        found = np.full((steps - 1, rows), np.nan)
        for row in range(rows):
            readings = self.replay.readings(policy, row)
            for step in range(1, steps):
                state = ControllerState(computed=True, full_at=step - 1)
                value = error_growth(policy, state, StepInfo(step, steps), readings[step])
                found[step - 1, row] = np.nan if value is None else value
        return found

    def _step_errors(self, predictor: Predictor) -> Array:
        if predictor not in self._errors:
            self._errors[predictor] = step_errors(self.replay, predictor, self.max_gap)
        return self._errors[predictor]

    def _matrix(self, weighting: Weighting) -> Array:
        if weighting not in self._matrices:
            self._matrices[weighting] = weighting.matrix(self.profile.sensitivity)
        return self._matrices[weighting]

    def _mover(self, predictor: Predictor) -> Mover:
        if predictor not in self._movers:
            self._movers[predictor] = Mover(self.replay, predictor, self.max_gap)
        return self._movers[predictor]

    def _refreshed(
        self, policy: Policy, letters: list[str], steps: tuple[int, ...], asked: Schedule, matrix: Array
    ) -> list[str]:
        """Letters with refreshes, each in place of the skip where it lowers the estimate most."""
        needed = policy.token.history  # computed residuals before a token refresh
        first = steps[needed - 1] if len(steps) >= needed else self.profile.num_steps
        trial = list(letters)
        for number in range(asked.refreshes):
            letter = asked.polish[number % len(asked.polish)]
            free = [i for i in _middles(trial) if letter != "T" or i > first]
            if not free:
                break

            def error(place: int, letter: str = letter) -> float:
                steps = "".join([*trial[:place], letter, *trial[place + 1 :]])
                changed = policy.model_copy(update={"controller": Pattern(steps=steps)})
                return float(log_error(self.replay.static_products(changed), matrix))

            trial[min(free, key=error)] = letter
        return trial


def _longest_window(policy: Policy) -> int:
    """Steps whose growth may add up before a step is full."""
    rule = policy.controller
    if policy.indicator.accumulate == "latest":
        return 1
    limits = (
        (rule.max_consecutive_skips, rule.max_consecutive_reuses) if isinstance(rule, DualThreshold) else ()
    )
    return min((limit for limit in limits if limit is not None), default=WINDOW) + 1


def _middles(letters: Sequence[str]) -> list[int]:
    """The middle of every run of skips."""
    found, start = [], 0
    for skipped, run in groupby(letters, lambda letter: letter == Action.SKIP):
        length = len(list(run))
        if skipped:
            found.append(start + length // 2)
        start += length
    return found
