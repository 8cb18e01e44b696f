"""The authors' schedules and their offline tuner."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import fmean, median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.strategies import smooth_curves
from xslim.errors import ConfigError
from xslim.policy.authors import (
    author_policy,
    author_schedules,
    coarse_steps,
    stable_span,
    threshold_of,
    tune_offline,
)
from xslim.policy.decision import Action

GOLDEN_CURVE = [
    round(8 * math.exp(-i / 5) + 1 + 5 * math.exp((i - 48) / 3) + (4 if i == 17 else 0), 6) for i in range(49)
]
# worked out by hand from the rules: threshold -> full, block, token
GOLDEN = {
    6.0: ([0, 1, 2, 3, 5, 7, 10, 14, 18, 24, 41, 45, 47, 49], [30], [36]),
    8.0: ([0, 1, 2, 3, 5, 8, 12, 18, 26, 46, 48, 49], [34], [41]),
    "mean": (
        [*range(10), 11, 13, 15, 17, 18, 26, 35, 42, 44, 46, 47, 48, 49],
        [20, 29, 38],
        [23, 32, 40],
    ),
}


def places(pattern: str, letter: str) -> list[int]:
    return [i for i, found in enumerate(pattern) if found == letter]


@pytest.mark.parametrize("threshold", GOLDEN)
def test_tuner_golden_values(threshold: float | str) -> None:
    """P6."""
    pattern = tune_offline(GOLDEN_CURVE, threshold)
    full, block, token = GOLDEN[threshold]
    assert [places(pattern, letter) for letter in "FBT"] == [full, block, token]
    assert coarse_steps(GOLDEN_CURVE, threshold) == tuple(sorted(full + block + token))


def test_what_the_tuner_takes_from_the_curve() -> None:
    assert median(GOLDEN_CURVE) == pytest.approx(1.39838)
    assert fmean(GOLDEN_CURVE) == pytest.approx(2.342233, abs=1e-6)
    assert stable_span(GOLDEN_CURVE) == (17, 47)
    assert threshold_of([1.0, 2.0, 9.0], "mean") == 4.0
    assert threshold_of([1.0, 2.0, 9.0], "median") == 2.0
    assert threshold_of([1.0, 2.0, 9.0], 12.0) == 12.0


@given(smooth_curves, st.floats(0, 1e3) | st.sampled_from(["mean", "median"]), st.integers(1, 9))
def test_a_tuned_pattern_keeps_the_rules(curve: list[float], threshold: float | str, start: int) -> None:
    pattern = tune_offline(curve, threshold, start=start)
    limit = threshold_of(curve, threshold)
    computed = [i for i, letter in enumerate(pattern) if letter != "."]
    assert len(pattern) == len(curve) + 1
    assert pattern.startswith("F" * min(start, len(pattern)))
    assert pattern[-1] == "F"
    assert pattern.count("B") - pattern.count("T") in (0, 1)
    for earlier, later in pairwise(computed):
        assert later == earlier + 1 or sum(curve[earlier : later - 1]) < limit


@given(st.floats(0.1, 10), st.integers(6, 40), st.floats(0.1, 100))
def test_a_flat_curve_has_no_stable_span(level: float, steps: int, threshold: float) -> None:
    curve = [level] * (steps - 1)
    assert stable_span(curve) is None
    assert set(tune_offline(curve, threshold)) <= {"F", "."}


MODES = [(model, mode) for model, entry in sorted(author_schedules().items()) for mode in sorted(entry.modes)]


@pytest.mark.parametrize(("model", "mode"), MODES)
def test_every_published_schedule_is_a_policy(model: str, mode: str) -> None:
    policy, entry = author_policy(model, mode), author_schedules()[model]
    steps = policy.controller.steps
    assert (len(steps), steps[0], steps[-1]) == (50, "F", "F")
    assert policy.parity == "authors"
    assert policy.block.threshold == entry.block_threshold
    assert (policy.block.start_block, policy.token.age_weight) == (3, 0.0)
    assert policy.predictor.kind == "hold"
    if "T" in steps:
        assert policy.token.budget == entry.modes[mode].token_ratio
    assert set(entry.published) == {"slow", "fast", "S-slow", "S-fast"}


@pytest.mark.parametrize("model", ["flux.1-dev", "hunyuanvideo"])
@pytest.mark.parametrize("speed", ["slow", "fast"])
def test_the_step_only_schedules_compute_the_same_steps(model: str, speed: str) -> None:
    both, steps_only = (author_policy(model, mode).controller.steps for mode in (speed, f"S-{speed}"))
    assert both.replace("B", Action.FULL).replace("T", Action.FULL) == steps_only


def test_published_facts() -> None:
    slow = author_policy("flux.1-dev", "slow")
    assert places(slow.controller.steps, "F") == [0, 1, 2, 3, 4, 6, 18, 23, 30, 44, 47, 49]
    assert (places(slow.controller.steps, "B"), places(slow.controller.steps, "T")) == ([9, 36], [13, 41])
    fast = author_policy("flux.1-dev", "fast")
    assert (places(fast.controller.steps, "T"), fast.token.budget) == ([11, 18, 36], 0.7)
    video = author_policy("hunyuanvideo", "slow")
    assert places(video.controller.steps, "F") == [*range(6), 7, 10, 13, 16, 29, 42, 45, 48, 49]
    assert video.block.threshold.single == 25.0


@pytest.mark.parametrize(
    ("model", "mode", "key", "words"),
    [
        ("flux", "slow", "model", "flux.1-dev"),
        ("dit-xl-2", "slow", "model", "never published"),
        ("hunyuanvideo", "slw", "mode", "did you mean 'slow'"),
    ],
)
def test_what_was_not_published_is_one_line(model: str, mode: str, key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        author_policy(model, mode)
    assert caught.value.key == key
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
