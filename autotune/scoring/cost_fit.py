"""Fitting: the seconds of every kind of call, from a few timed requests of the live model on this device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import numpy as np

import xslim
from autotune.scoring.cost import CostModel
from autotune.scoring.cost_count import Subject
from autotune.scoring.cost_parts import BranchCost, CallCost, CallSeconds, terms
from autotune.scoring.cost_steps import dry_run
from autotune.scoring.pipeline.timer import timed
from xslim.policy.decision import Action
from xslim.policy.policy import Policy
from xslim.policy.trace import Trace
from xslim.runtime.model import LiveModel

ROUNDS = 3
# every action after every other one, in a request short enough to be repeated; refreshes from budgets
MIXED = "FFTTTFTTTFBBBFBBBFTBTF...F....F"
BUDGETS = (0.25, 0.75)  # two shares tell what a refresh costs at least from what grows with the share


@dataclass(frozen=True, slots=True)
class Timed:
    """One timed request.

    Attributes:
        seconds: of the denoising loop.
        calls: seconds of every call of the transformer, in order.
        trace: what ran; None for the bare model.
    """

    seconds: float
    calls: tuple[float, ...]
    trace: Trace | None

    @property
    def ran(self) -> Trace:
        """The trace of a request under a policy."""
        if self.trace is None:
            raise TypeError("a request of the bare model has no trace")
        return self.trace


def time_request(subject: Subject, policy: Policy | None, steps: int) -> Timed:
    """Time the denoising loop of one request, bare or under a policy."""
    with timed([subject.transformer], subject.device) as timer:
        if policy is None:
            subject.request(steps)
            return Timed(timer.take(), timer.calls, None)
        with xslim.attach(subject.target, policy, num_steps=steps) as session:
            subject.request(steps)
            return Timed(timer.take(), timer.calls, session.trace)


def fitting_policies(refreshes_tokens: bool) -> list[Policy]:
    """Return the policies that are timed: all steps full, and all actions mixed at two budgets."""
    mixed = MIXED if refreshes_tokens else MIXED.replace("T", "B")
    found = [Policy.from_pattern("F" * len(mixed))]
    for budget, predictor in zip(BUDGETS, ({"kind": "hold"}, {"kind": "newton", "order": 2}), strict=True):
        found.append(
            Policy.parse(
                {
                    "controller": {"kind": "pattern", "steps": mixed},
                    "block": {"budget": budget, "start_block": 0},
                    "token": {"budget": budget},
                    "predictor": predictor,
                }
            )
        )
    return found


def fit_cost(subject: Subject, model: CostModel, rounds: int = ROUNDS) -> CostModel:
    """Return the cost model with fitted seconds. The live model must be detached.

    Every policy is timed between two requests of the bare model, whose drift is taken out; per kind of call
    the median counts. The terms are the non-negative least squares of the relative error.

    Args:
        subject: the live model.
        model: its counted cost.
        rounds: how often each policy is timed.
    """
    policies = fitting_policies(LiveModel(subject.transformer).no_tokens is None)
    steps = len(MIXED)
    for policy in policies:  # first calls are slow
        time_request(subject, policy, steps)
    samples: list[tuple[float, int, Timed]] = []
    first = time_request(subject, None, steps)
    bare = [first.seconds]
    for _ in range(rounds):
        for index, policy in enumerate(policies):
            found = time_request(subject, policy, steps)
            bare.append(time_request(subject, None, steps).seconds)
            samples.append(((bare[-2] + bare[-1]) / 2, index, found))
    usual = median(bare)
    groups: dict[tuple[tuple[str, float], ...], list[float]] = {}
    for around, index, found in samples:
        for call, seconds in _attributed(model, policies[index], found):
            groups.setdefault(tuple(terms(call).items()), []).append(seconds * usual / around)
    fit = CallSeconds(**_least_squares(groups), uncached=usual * len(model.branches) / len(first.calls))
    return model.model_copy(update={"fit": fit})


def _attributed(model: CostModel, policy: Policy, found: Timed) -> Iterator[tuple[CallCost, float]]:
    """Pair every call of a timed request with its cost; the MACs are those that ran, not predicted ones."""
    branches = {branch.name: branch for branch in model.branches}
    done = {}
    for name, branch in branches.items():
        actions = found.ran.actions_of(name)
        done[name] = dry_run(policy, len(actions), None, actions, branch.whole)
    for record, seconds in zip(found.ran.records, found.calls, strict=True):
        branch, step = branches[record.branch], done[record.branch][record.step]
        predicts = step.action in (Action.SKIP, Action.TOKEN)
        yield (
            CallCost(
                step=record.step,
                branch=record.branch,
                action=step.action,
                macs=record.macs,
                full_macs=record.full_macs,
                blocks_macs=_inside(branch, record.macs, len(record.decisions)),
                keeps=step.keeps,
                reads=min(policy.predictor.history, step.pushed) if predicts else 0,
            ),
            seconds,
        )


def _inside(branch: BranchCost, macs: float, rows: int) -> float:
    return max(0.0, round(macs - rows * branch.table.outside))


def _least_squares(groups: dict[tuple[tuple[str, float], ...], list[float]]) -> dict[str, float]:
    """Fit the terms to the medians of the groups, each weighted by its reciprocal."""
    from scipy.optimize import nnls

    names = [name for name, _ in next(iter(groups))]
    matrix = np.array([[value for _, value in group] for group in groups])
    seconds = np.array([median(values) for values in groups.values()])
    size = matrix.max(axis=0)
    size[size == 0] = 1.0  # of terms that never occur, such as those of tokens on some models
    fitted, _ = nnls(matrix / size / seconds[:, None], np.ones(len(seconds)))
    return dict(zip(names, map(float, fitted / size), strict=True))
