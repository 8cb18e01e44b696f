"""The controller's promises, over random policies and readings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.policy.strategies import dual_threshold, patterns, policies
from xslim import Policy
from xslim.errors import ConfigError
from xslim.policy.controller import FRESH, decide
from xslim.policy.decision import Action, Decision, StepInfo
from xslim.policy.policy import Relief
from xslim.policy.schedule import compile_static

SIGNAL = "modulated_input"
# multiples of 1/64 add without rounding, so that comparisons of sums are exact
changes = st.integers(0, 128).map(lambda n: n / 64)
readings = st.lists(changes, min_size=1, max_size=40)
criticals = st.integers(0, 640).map(lambda n: n / 64)


def run(policy: Policy, values: Sequence[float]) -> list[Decision]:
    """Decisions of one sample over a request, the signal scripted; the first step has none."""
    state, decisions = FRESH, []
    for step, value in enumerate(values):
        reading = {} if step == 0 else dict.fromkeys(policy.indicator.used, value)
        decision, state = decide(policy, state, StepInfo(step, len(values)), reading)
        decisions.append(decision)
    return decisions


def letters(decisions: Sequence[Decision]) -> str:
    return "".join(decision.action for decision in decisions)


def simple(critical: float, **controller: object) -> Policy:
    return Policy(
        controller={"kind": "dual-threshold", "critical": critical, **controller},
        indicator={"signals": {SIGNAL: 1.0}},
    )


simples = dual_threshold.map(lambda c: Policy(controller=c, indicator={"signals": {SIGNAL: 1.0}}))


@given(simples, readings)
def test_never_skips_at_or_beyond_critical_nor_in_warm_up_or_cool_down(
    policy: Policy, values: list[float]
) -> None:
    rule = policy.controller
    err = 0.0
    for step, decision in enumerate(run(policy, values)):
        forced = step == 0 or step < rule.warmup or step >= len(values) - rule.cooldown
        reached = err + values[step] >= rule.critical
        if forced or reached:
            assert decision.action is Action.FULL
        if decision.action is Action.FULL:
            assert decision.err == 0.0
        if decision.action is Action.SKIP:
            assert decision.err == err + values[step] < rule.critical
            assert decision.err < rule.warning or not rule.polish
        if decision.action in (Action.BLOCK, Action.TOKEN):
            assert rule.warning <= err + values[step] < rule.critical
            kept = 1 - (rule.relief.block if decision.action is Action.BLOCK else rule.relief.token)
            assert decision.err == (err + values[step]) * kept
        err = decision.err


@given(policies, readings)
def test_the_first_step_is_always_full(policy: Policy, values: list[float]) -> None:
    decision, _ = decide(policy, FRESH, StepInfo(0, len(values)), {SIGNAL: values[0]})
    assert decision.action is Action.FULL
    # even when the request is joined in the middle
    decision, _ = decide(policy, FRESH, StepInfo(len(values) // 2, len(values)), {SIGNAL: 0.0})
    assert decision.action is Action.FULL


@given(simples, readings)
def test_skips_in_a_row_are_capped(policy: Policy, values: list[float]) -> None:
    limit = policy.controller.max_consecutive_skips
    if limit is not None:
        assert "." * (limit + 1) not in letters(run(policy, values))


@given(simples, readings)
def test_steps_in_a_row_that_are_not_full_are_capped(policy: Policy, values: list[float]) -> None:
    limit = policy.controller.max_consecutive_reuses
    if limit is not None:
        assert all(len(run) <= limit for run in letters(run(policy, values)).split("F"))


def test_skips_and_refreshes_count_together_up_to_the_reuse_limit() -> None:
    """0.25 a step, warning at 0.625: two skips, then refreshes that halve the estimate."""
    policy = simple(1.0, warmup=1, cooldown=0, warning_fraction=0.625, max_consecutive_reuses=4)
    decisions = run(policy, [0.0] + [0.25] * 11)
    assert letters(decisions) == "F..BTF..BTF."
    assert [d.reason for d in decisions if d.action is Action.FULL][1:] == ["reuse limit"] * 2
    free = simple(1.0, warmup=1, cooldown=0, warning_fraction=0.625)
    assert "F" not in letters(run(free, [0.0] + [0.25] * 11))[1:]


@given(readings, st.integers(1, 6))
def test_the_cap_is_reached_and_then_full(values: list[float], limit: int) -> None:
    policy = simple(1e9, warmup=1, cooldown=0, max_consecutive_skips=limit)
    expected = ("F" + "." * limit) * len(values)
    assert letters(run(policy, values)) == expected[: len(values)]


@given(simples, readings)
def test_critical_0_computes_always(policy: Policy, values: list[float]) -> None:
    zero = policy.model_copy(update={"controller": policy.controller.model_copy(update={"critical": 0.0})})
    assert set(letters(run(zero, values))) == {"F"}


@given(readings, criticals, criticals, st.none() | st.integers(1, 9), st.integers(1, 4))
def test_without_polish_a_larger_critical_never_computes_more(
    values: list[float], a: float, b: float, limit: int | None, warmup: int
) -> None:
    low, high = sorted((a, b))
    counts = [
        letters(run(simple(c, polish=[], max_consecutive_skips=limit, warmup=warmup), values)).count("F")
        for c in (low, high)
    ]
    assert counts[1] <= counts[0]


@given(simples, readings)
def test_refreshes_take_turns_and_start_over_after_a_full_step(policy: Policy, values: list[float]) -> None:
    order, turn = policy.controller.polish, 0
    for decision in run(policy, values):
        if decision.action is Action.FULL:
            turn = 0
        elif decision.action is not Action.SKIP:
            assert decision.action.name.lower() == order[turn % len(order)]
            turn += 1


@given(policies, st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(1, 20))
def test_a_nonfinite_reading_is_full_and_counted(policy: Policy, bad: float, step: int) -> None:
    _, computed = decide(policy, FRESH, StepInfo(0, 21), {})
    for name in (SIGNAL, "residual_health"):
        decision, after = decide(policy, computed, StepInfo(step, 21), {SIGNAL: 0.0, name: bad})
        assert decision.action is Action.FULL
        assert decision.nonfinite
        assert decision.reason == "nonfinite"
        assert (after.err, after.skips, after.refreshes, after.reuses) == (0.0, 0, 0, 0)


def test_a_finite_reading_is_not_counted() -> None:
    assert not any(decision.nonfinite for decision in run(simple(0.1), [0.5] * 10))


@given(policies, st.integers(0, 30), amounts := st.floats(0, 100), amounts)
def test_sigma_windows_are_full_and_inclusive(policy: Policy, step: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    guards = policy.guards.model_copy(update={"sigma_windows": ((low, high),)})
    guarded = policy.model_copy(update={"guards": guards})
    _, computed = decide(policy, FRESH, StepInfo(0, 40), {})
    for sigma in (low, (low + high) / 2, high):
        decision, _ = decide(guarded, computed, StepInfo(step, 40, sigma), {SIGNAL: 0.0})
        assert decision.action is Action.FULL


def test_outside_a_window_and_without_sigma_the_rule_decides() -> None:
    policy = Policy(controller={"kind": "pattern", "steps": "F..."}, guards={"sigma_windows": [[1.0, 2.0]]})
    _, computed = decide(policy, FRESH, StepInfo(0, 4), {})
    for sigma, action in ((0.9, "."), (1.0, "F"), (2.0, "F"), (2.1, "."), (None, ".")):
        assert decide(policy, computed, StepInfo(2, 4, sigma), {})[0].action == action


@given(readings, criticals)
def test_the_latest_growth_alone_decides(values: list[float], critical: float) -> None:
    """As First-Block Cache: a step is full where its own change reaches the threshold."""
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": critical, "warmup": 1, "cooldown": 0, "polish": [],
                    "max_consecutive_skips": None},
        indicator={"signals": {SIGNAL: 1.0}, "accumulate": "latest"},
    )  # fmt: skip
    decisions = run(policy, values)
    expected = "F" + "".join("F" if value >= critical else "." for value in values[1:])
    assert letters(decisions) == expected
    assert all(d.err == v for d, v in zip(decisions, values, strict=True) if d.action is Action.SKIP)


def test_a_negative_map_lowers_the_estimate() -> None:
    """2d - 1: the estimate goes 0.5, 0, 0.5, 1 and is full where it reaches 1."""
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 1.0, "warmup": 1, "cooldown": 0, "polish": []},
        indicator={"signals": {SIGNAL: 1.0}, "calibration": {SIGNAL: {"polynomial": [2.0, -1.0]}}},
    )
    decisions = run(policy, [0.0, 0.75, 0.25, 0.75, 0.75])
    assert letters(decisions) == "F...F"
    assert [decision.err for decision in decisions] == [0.0, 0.5, 0.0, 0.5, 0.0]


def test_a_map_beyond_all_numbers_is_full() -> None:
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 1.0, "warmup": 1, "cooldown": 0},
        indicator={"signals": {SIGNAL: 1.0}, "calibration": {SIGNAL: {"polynomial": [-1e300, 1e300, 0.0]}}},
    )
    assert [decision.reason for decision in run(policy, [0.0, 1e200])][1] == "nonfinite"


def test_a_missing_signal_is_full() -> None:
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 9.0, "warmup": 1},
        indicator={"signals": {SIGNAL: 0.5, "latent_velocity": 0.5}},
    )
    _, computed = decide(policy, FRESH, StepInfo(0, 9), {})
    assert decide(policy, computed, StepInfo(3, 9), {SIGNAL: 0.0})[0].reason == "no signal yet"
    both = {SIGNAL: 0.5, "latent_velocity": 0.25}
    decision, _ = decide(policy, computed, StepInfo(3, 9), both)
    assert (decision.action, decision.err) == (Action.SKIP, 0.375)


def test_an_unused_signal_is_not_waited_for() -> None:
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 9.0, "warmup": 1},
        indicator={"signals": {SIGNAL: 1.0, "latent_velocity": 0.0}},
    )
    _, computed = decide(policy, FRESH, StepInfo(0, 9), {})
    assert decide(policy, computed, StepInfo(3, 9), {SIGNAL: 0.5})[0].err == 0.5


def test_a_profiled_table_serves_any_number_of_steps() -> None:
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 1e9, "warmup": 1, "cooldown": 0, "polish": [],
                    "max_consecutive_skips": None},
        indicator={"signals": {"step_table": 1.0},
                   "calibration": {"step_table": {"x": [0.0, 1.0], "y": [2.0, 2.0]}}},
    )  # fmt: skip
    for steps in (10, 50):
        last = run(policy, [0.0] * steps)[-1]
        assert math.isclose(last.err, 2.0 * (steps - 1) / steps)


@given(
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 3),
    st.lists(st.sampled_from(["skip", "token", "block"]), min_size=1, max_size=4),
)
def test_what_lies_between_takes_turns_anew_after_every_computed_step(
    every: int, warmup: int, cooldown: int, between: list[str]
) -> None:
    rule = {"kind": "interval", "every": every, "warmup": warmup, "cooldown": cooldown}
    plain, mixed = (
        letters(run(Policy(controller=c), [0.0] * 30)) for c in (rule, {**rule, "between": between})
    )
    named = {"skip": ".", "token": "T", "block": "B"}
    gaps = ["".join(named[between[i % len(between)]] for i in range(len(gap))) for gap in plain.split("F")]
    assert mixed == "F".join(gaps)


@pytest.mark.parametrize(
    ("between", "expected"),
    [(["token"], "FFTTFTTF"), (["token", "skip"], "FFT.FT.F"), (["block", "skip", "token"], "FFB.FB.F")],
)
def test_intervals_as_toca_and_duca(between: list[str], expected: str) -> None:
    policy = Policy(controller={"kind": "interval", "every": 3, "warmup": 2, "between": between})
    assert letters(run(policy, [0.0] * 8)) == expected


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(1, 40))
def test_interval_semantics(every: int, warmup: int, cooldown: int, steps: int) -> None:
    controller = {"kind": "interval", "every": every, "warmup": warmup, "cooldown": cooldown}
    policy = Policy(controller=controller)
    expected = "".join(
        "F" if s < warmup or s >= steps - cooldown or (s - (warmup - 1)) % every == 0 else "."
        for s in range(steps)
    )
    assert letters(run(policy, [0.0] * steps)) == expected


def test_interval_example() -> None:
    policy = Policy(controller={"kind": "interval", "every": 4, "warmup": 3, "cooldown": 1})
    assert letters(run(policy, [0.0] * 14)) == "FFF...F...F..F"


def test_table_semantics() -> None:
    rows = [[1, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1]]
    decisions = run(Policy(controller={"kind": "table", "blocks": rows}), [0.0] * 5)
    assert letters(decisions) == "F.BFF"  # beyond the table every step is full
    assert decisions[2].compute_blocks == (True, False, True)
    assert decisions[4].reason == "beyond schedule"
    first = run(Policy(controller={"kind": "table", "blocks": [[0, 1], [0, 1]]}), [0.0] * 2)
    assert letters(first) == "FB"


@given(patterns, st.integers(0, 5))
def test_pattern_semantics(steps: str, beyond: int) -> None:
    found = letters(run(Policy.from_pattern(steps), [0.0] * (len(steps) + beyond)))
    assert found == "F" + steps[1:] + "F" * beyond


@given(simples, readings)
def test_deciding_is_pure(policy: Policy, values: list[float]) -> None:
    assert run(policy, values) == run(policy, values)


@given(simples, readings, st.floats(0, 1), st.floats(0, 1))
def test_a_refresh_relieves(policy: Policy, values: list[float], block: float, token: float) -> None:
    rule = policy.controller.model_copy(update={"relief": Relief(block=block, token=token)})
    err = 0.0
    for value, decision in zip(
        values, run(policy.model_copy(update={"controller": rule}), values), strict=True
    ):
        if decision.action in (Action.BLOCK, Action.TOKEN):
            share = block if decision.action is Action.BLOCK else token
            assert decision.err <= err + value
            assert decision.err == (err + value) * (1 - share)
        err = decision.err


# tables


def by_table(name: str, x: list[float], y: list[float], **controller: object) -> Policy:
    return Policy(
        controller={"kind": "dual-threshold", "critical": 1e9, "warmup": 1, "cooldown": 0, "polish": [],
                    "max_consecutive_skips": None, **controller},
        indicator={"signals": {name: 1.0}, "calibration": {name: {"x": x, "y": y}}},
    )  # fmt: skip


@given(st.lists(st.floats(0.5, 2.0), min_size=2, max_size=30), st.floats(0.01, 3))
def test_gamma_adds_up_how_far_the_size_has_moved(gammas: list[float], critical: float) -> None:
    """MagCache's rule: E grows by |1 - product of the gammas since the last full step|."""
    steps = len(gammas) + 1
    sizes = [math.prod(gammas[:i]) for i in range(steps)]
    policy = by_table("gamma", [i / gammas.__len__() for i in range(steps)], sizes, critical=critical)
    product, err = 1.0, 0.0
    for gamma, decision in zip(gammas, run(policy, [0.0] * steps)[1:], strict=True):
        product *= gamma
        err += abs(1 - product)
        if math.isclose(err, critical, rel_tol=1e-6):
            return  # rounding decides
        assert decision.action is (Action.FULL if err >= critical else Action.SKIP)
        if decision.action is Action.FULL:
            product, err = 1.0, 0.0
        assert math.isclose(decision.err, err, rel_tol=1e-6, abs_tol=1e-9)


def test_a_constant_size_skips_up_to_the_cap() -> None:
    """P8."""
    policy = by_table("gamma", [0.0, 1.0], [1.0, 1.0], max_consecutive_skips=5)
    assert letters(run(policy, [0.0] * 13)) == "F.....F.....F"


def test_a_table_of_sizes_serves_any_number_of_steps() -> None:
    """Skipping from the first step to the last ends at the same product of gammas."""
    for steps in (10, 50):
        before, last = run(by_table("gamma", [0.0, 1.0], [1.0, 0.5]), [0.0] * steps)[-2:]
        assert math.isclose(last.err - before.err, 0.5)


@given(st.sampled_from(["step_table", "gamma"]))
def test_a_table_signal_needs_its_table(name: str) -> None:
    with pytest.raises(ConfigError, match=r"needs its table; run `autotune profile`") as caught:
        Policy(controller={"kind": "dual-threshold", "critical": 1.0}, indicator={"signals": {name: 1.0}})
    assert caught.value.key == f"indicator.calibration.{name}"


# patterns


@pytest.mark.parametrize(("steps", "refresh"), [("BF", 0), ("..TF", 2), ("T", 0), (".B.", 1)])
def test_a_refresh_needs_a_full_step_before_it(steps: str, refresh: int) -> None:
    with pytest.raises(ConfigError, match=f"step {refresh} is '[BT]' before any full step") as caught:
        Policy.from_pattern(steps)
    assert caught.value.key == "controller.steps"
    assert "\n" not in str(caught.value)


@given(policies, patterns)
def test_a_compiled_pattern_has_the_same_parts(policy: Policy, actions: str) -> None:
    if policy.controller.kind == "table":
        with pytest.raises(ConfigError, match="keep it"):
            compile_static(policy, actions)
        return
    found = compile_static(policy.model_copy(update={"parity": None}), actions)
    assert found.controller.steps == actions
    for part in ("block", "token", "predictor", "guards"):
        assert getattr(found, part) == getattr(policy, part)
    assert found.signals == ()


@given(simples, readings)
def test_a_compiled_pattern_does_what_the_online_run_did(policy: Policy, values: list[float]) -> None:
    actions = letters(run(policy, values))
    assert letters(run(compile_static(policy, actions), values)) == actions
