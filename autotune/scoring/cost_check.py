"""Checking: how far the cost model is off on random schedules that its fit did not see."""

from __future__ import annotations

import itertools
import random
from statistics import median

from autotune.scoring.cost import CostModel
from autotune.scoring.cost_count import Subject
from autotune.scoring.cost_fit import time_request
from autotune.scoring.cost_parts import CostError
from xslim.policy.policy import Policy
from xslim.runtime.model import LiveModel

PATTERNS = 20
START_BLOCKS = (0, 1, 3)
PREDICTORS: tuple[dict[str, object], ...] = (
    {"kind": "hold"},
    {"kind": "newton", "order": 1},
    {"kind": "newton", "order": 2},
)


def random_policy(rng: random.Random, num_steps: int, refreshes_tokens: bool) -> Policy:
    """Return a random schedule: its share of full steps, of refreshes, its budgets and predictor vary."""
    letters = "BT" if refreshes_tokens else "B"
    full, refresh = rng.uniform(0.15, 0.6), rng.uniform(0.0, 0.5)
    steps = "F"
    for _ in range(num_steps - 1):
        draw = rng.random()
        steps += "F" if draw < full else rng.choice(letters) if draw < full + refresh else "."
    return Policy.parse(
        {
            "controller": {"kind": "pattern", "steps": steps},
            "block": {"budget": rng.uniform(0.2, 0.9), "start_block": rng.choice(START_BLOCKS)},
            "token": {"budget": rng.uniform(0.15, 0.9)},
            "predictor": rng.choice(PREDICTORS),
        }
    )


def check_cost(subject: Subject, model: CostModel, patterns: int = PATTERNS, seed: int = 0) -> CostModel:
    """Return the cost model with its error on random schedules. The live model must be detached.

    Each schedule is run once, next to a request of the bare model (bare, two schedules, bare, …); the
    measured ratio of the two is compared with the predicted one.

    Args:
        subject: the live model.
        model: its fitted cost.
        patterns: schedules; 0 leaves the error unknown.
        seed: another seed draws other schedules.
    """
    if patterns < 1:
        return model
    rng, steps = random.Random(seed), model.num_steps
    tokens = LiveModel(subject.transformer).no_tokens is None
    policies = [random_policy(rng, steps, tokens) for _ in range(patterns)]
    bare = [time_request(subject, None, steps).seconds]
    latency: list[float] = []
    compute: list[float] = []
    for start in range(0, patterns, 2):
        pair = policies[start : start + 2]
        found = [time_request(subject, policy, steps) for policy in pair]
        bare.append(time_request(subject, None, steps).seconds)
        around = (bare[-2] + bare[-1]) / 2
        for policy, timed in zip(pair, found, strict=True):
            latency.append(_off(model.latency_ratio(policy), timed.seconds / around))
            compute.append(_off(model.compute_fraction(policy), timed.ran.compute_fraction))
    error = CostError(
        patterns=patterns,
        latency_median=median(latency),
        latency_worst=max(latency),
        compute_median=median(compute),
        compute_worst=max(compute),
        noise=median(_off(a, b) for a, b in itertools.pairwise(bare)),
    )
    return model.model_copy(update={"error": error})


def _off(predicted: float, measured: float) -> float:
    return abs(predicted / measured - 1)
