"""Jumps of the step curve: spikes are found, smooth curves have none."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from autotune.scoring.curve import jumps, sigma_windows
from tests.policy.strategies import smooth_curves
from xslim.policy.controller import FRESH, decide
from xslim.policy.decision import Action, StepInfo
from xslim.policy.policy import Policy


def published_shape(spike: float) -> list[float]:
    """Fast start, slow middle, fast end, and a spike from step 17 to 18 of 50."""
    return [
        8 * math.exp(-i / 5) + 1 + 5 * math.exp((i - 48) / 3) + (spike if i == 17 else 0) for i in range(49)
    ]


def test_the_spike_of_flux_is_found_and_nothing_else() -> None:
    assert jumps(published_shape(4.0)) == (18,)
    assert jumps(published_shape(0.0)) == ()


@given(smooth_curves)
def test_a_smooth_curve_has_no_jump(curve: list[float]) -> None:
    assert jumps(curve) == ()


@given(smooth_curves, st.integers(3, 60), st.floats(2.5, 100))
def test_a_spike_on_a_smooth_curve_is_found(curve: list[float], at: int, height: float) -> None:
    assume(at < len(curve) - 3)
    curve[at] *= height
    assert jumps(curve) == (at + 1,)


@given(smooth_curves, st.floats(1e-6, 1e6))
def test_jumps_do_not_depend_on_the_unit(curve: list[float], scale: float) -> None:
    curve[len(curve) // 2] *= 5
    assert jumps([value * scale for value in curve]) == jumps(curve) != ()


def test_noise_is_no_jump() -> None:
    """Half of the values off by up to 60 %: none stands out."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 49)
    assert jumps(np.exp(noise)) == ()


@pytest.mark.parametrize("curve", [[], [1.0], [0.0] * 9])
def test_degenerate_curves(curve: list[float]) -> None:
    assert jumps(curve) == ()


@given(st.integers(2, 60), st.data())
def test_a_window_makes_its_step_full_and_no_other(steps: int, data: st.DataObject) -> None:
    sigmas = [(1 - i / steps) ** 2 for i in range(steps)]
    step = data.draw(st.integers(1, steps - 1))
    policy = Policy(
        controller={"kind": "pattern", "steps": "F" + "." * (steps - 1)},
        guards={"sigma_windows": sigma_windows([step], sigmas)},
    )
    _, state = decide(policy, FRESH, StepInfo(0, steps, sigmas[0]), {})
    actions = [
        decide(policy, state, StepInfo(i, steps, sigma), {})[0].action for i, sigma in enumerate(sigmas)
    ]
    assert [i for i, action in enumerate(actions) if action is Action.FULL and i > 0] == [step]


def test_without_sigmas_there_are_no_windows() -> None:
    assert sigma_windows([3], None) == ()
