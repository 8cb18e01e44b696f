"""Scripted profiles for methods, and what a recipe's policy decides on scripted readings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from autotune.compare.makers import Bench, make
from autotune.compare.methods import load_recipes
from autotune.compare.recipe import Recipe
from autotune.scoring.lesson import Learned
from tests.search.residuals import random_profile
from xslim.policy.calibration import Calibration
from xslim.policy.controller import FRESH, decide
from xslim.policy.decision import StepInfo
from xslim.policy.policy import Policy

METHODS = Path(__file__).parents[2] / "experiments" / "methods"
RECIPES = load_recipes(METHODS)
STEPS, BLOCKS = 20, 6
PROGRESS = tuple(step / (STEPS - 1) for step in range(STEPS))


def recipe(method: str, family: str = "dit") -> Recipe:
    return RECIPES[method].of_family(family)


def bench(seed: int = 0, steps: int = STEPS) -> Bench:
    """A profile of random walks, of the stack and of six blocks of two kinds."""
    profile, _ = random_profile(seed, steps)
    rng = np.random.default_rng([seed, 1])
    walks = np.cumsum(rng.normal(size=(BLOCKS, steps, 7)), axis=1) + 3
    size = np.exp(np.cumsum(rng.normal(0, 0.05, size=steps)))
    calibration = Calibration(x=tuple(step / (steps - 1) for step in range(steps)), y=tuple(map(float, size)))
    signals = {"modulated_input": rng.uniform(0.02, 0.3, size=(steps - 1, 2))}
    found = replace(
        profile,
        blocks=walks @ walks.transpose(0, 2, 1),
        calibration={"gamma": calibration, "step_table": calibration},
        signals=signals,
        curve=rng.uniform(0.5, 2.0, size=steps - 1),
        change=rng.uniform(0.02, 0.3, size=steps - 1),
    )
    return Bench(found, ("double",) * 3 + ("single",) * 3)


def made(method: str, value: Any, family: str = "dit", on: Bench | None = None) -> Learned:
    return make(recipe(method, family).at(value), on or bench())


def decided(policy: Policy, readings: Sequence[Mapping[str, float]]) -> str:
    """Letters of a policy on raw signals, one mapping a step."""
    state, letters = FRESH, ""
    for step, reading in enumerate(readings):
        decision, state = decide(policy, state, StepInfo(step, len(readings)), reading)
        letters += decision.action
    return letters
