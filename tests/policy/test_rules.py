"""Calibration, block selection and remapping."""

from __future__ import annotations

import math
import re
from itertools import groupby

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.policy.strategies import increasing, patterns, tables
from xslim import Policy
from xslim.errors import ConfigError
from xslim.policy.calibration import Calibration, Polynomial
from xslim.policy.decision import Action
from xslim.policy.policy import BlockReuse
from xslim.policy.schedule import actions_before_next_full, refreshes_blocks, remap, residual_is_read
from xslim.policy.selection import select_blocks

# calibration


@given(increasing, st.data())
def test_calibration_is_monotone_where_its_points_are(x: list[float], data: st.DataObject) -> None:
    y = sorted(data.draw(st.lists(st.floats(0, 100), min_size=len(x), max_size=len(x))))
    calibration = Calibration(x=x, y=y)
    inside = st.floats(x[0], x[-1])
    a, b = sorted((data.draw(inside), data.draw(inside)))
    assert calibration(a) <= calibration(b) + 1e-9 * y[-1]
    assert y[0] - 1e-9 <= calibration(a) <= y[-1] * (1 + 1e-12)
    for known, value in zip(x, y, strict=True):
        assert calibration(known) == pytest.approx(value)


@given(increasing, st.floats(1, 100), st.floats(1, 1e6))
def test_beyond_its_range_a_calibration_grows_in_proportion(x: list[float], top: float, far: float) -> None:
    calibration = Calibration(x=x, y=[0.0] * (len(x) - 1) + [top])
    assert calibration(x[-1] * far) == pytest.approx(top * far)
    assert calibration(x[0] - 1) == 0.0


def test_a_polynomial_is_that_of_the_authors() -> None:
    """TeaCache's for FLUX and Wan2.1 14B, by hand, highest power first; it may be negative."""
    flux = [498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861]
    assert Polynomial(polynomial=flux)(0.1) == pytest.approx(0.2068473761, abs=1e-9)
    assert Polynomial(polynomial=flux)(0.0) == 0.264230861
    wan = [-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404]
    assert Polynomial(polynomial=wan)(0.05) == pytest.approx(-4.0918144165, abs=1e-8)


CURVE, TABLE = {"polynomial": [1.0]}, {"x": [0.0, 1.0]}


@pytest.mark.parametrize(
    ("key", "found", "problem"),
    [
        ("gamma", CURVE, "got a polynomial; gamma needs a table"),
        ("step_table", CURVE, "got a polynomial; step_table needs a table"),
        ("first_block.x", {**CURVE, **TABLE}, "unknown key"),
        ("first_block.polynomial", {"polynomial": []}, "at least 1 item"),
        ("first_block.polynom", {"polynom": [1.0]}, "unknown key; allowed: x, y"),
        ("first_block.y", TABLE, "missing"),
        ("first_block", 3.0, "a mapping of keys"),
    ],
)
def test_a_map_at_fault_is_told_in_one_line(key: str, found: object, problem: str) -> None:
    signal = key.partition(".")[0]
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        Policy.parse(
            {
                "controller": {"kind": "dual-threshold", "critical": 1.0},
                "indicator": {"calibration": {signal: found}},
            }
        )
    assert caught.value.key == f"indicator.calibration.{key}"
    assert "\n" not in str(caught.value)


def test_a_predictor_takes_no_polynomial() -> None:
    with pytest.raises(ConfigError, match="unknown key; allowed: x, y") as caught:
        Policy.parse(
            {
                "controller": {"kind": "interval", "every": 2},
                "predictor": {"kind": "gamma", "gamma": {"polynomial": [1.0]}},
            }
        )
    assert caught.value.key == "predictor.gamma.polynomial"


# block selection


def toy_change() -> list[float]:
    return [9.0] * 4 + [0.4] * 6


def test_block_selection_as_published() -> None:
    """P5: runs end where the accumulated change reaches the threshold; that block's change is dropped."""
    flags = select_blocks(toy_change(), ["single"] * 10, BlockReuse(threshold=1.0))
    assert [i for i, compute in enumerate(flags) if not compute] == [4, 5, 7, 8]


def test_the_first_blocks_of_each_kind_are_computed() -> None:
    kinds = ["double"] * 4 + ["single"] * 4
    rule = BlockReuse(threshold={"double": 1e9, "single": 1e9}, start_block=1)
    flags = select_blocks([1.0] * 8, kinds, rule)
    assert [i for i, compute in enumerate(flags) if compute] == [0, 1, 4, 5]


def test_thresholds_by_kind() -> None:
    kinds = ["double"] * 3 + ["single"] * 3
    rule = BlockReuse(threshold={"double": 0.0, "single": 1e9}, start_block=0)
    assert select_blocks([1.0] * 6, kinds, rule) == (True, True, True, True, False, False)


def test_blocks_by_position_are_the_ends_of_the_whole_stack() -> None:
    kinds = ["double"] * 3 + ["single"] * 3
    for rule, computed in (
        (BlockReuse(first=1), [0]),
        (BlockReuse(first=2, last=1), [0, 1, 5]),
        (BlockReuse(last=2), [4, 5]),
        (BlockReuse(first=4, last=4), [0, 1, 2, 3, 4, 5]),
    ):
        flags = select_blocks([9.0, 0.0] * 3, kinds, rule)
        assert [i for i, compute in enumerate(flags) if compute] == computed


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"budget": 0.5, "first": 1}, "give budget or first and last, not both"),
        ({"threshold": 0.5, "last": 1}, "give threshold or first and last, not both"),
        ({"first": 0, "last": 0}, "got no block at either end"),
        ({"first": -1}, "greater than or equal to 0"),
    ],
)
def test_one_rule_chooses_the_blocks(block: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Policy.parse({"controller": {"kind": "interval", "every": 2}, "block": block})


sizes = st.lists(st.integers(0, 640).map(lambda n: n / 64), min_size=1, max_size=20)
starts = st.integers(-1, 6)


@given(sizes, starts, st.floats(0, 30), st.floats(0, 30))
def test_a_higher_threshold_never_computes_more(change: list[float], start: int, a: float, b: float) -> None:
    low, high = sorted((a, b))
    kinds = ["double"] * len(change)
    few = select_blocks(change, kinds, BlockReuse(threshold=high, start_block=start))
    many = select_blocks(change, kinds, BlockReuse(threshold=low, start_block=start))
    assert sum(few) <= sum(many)


@given(sizes, starts, st.floats(0, 30))
def test_a_replayed_run_stays_below_the_threshold(change: list[float], start: int, threshold: float) -> None:
    rule = BlockReuse(threshold=threshold, start_block=start)
    flags = select_blocks(change, ["double"] * len(change), rule)
    assert all(flags[: start + 1])
    for compute, run in groupby(zip(flags, change, strict=True), key=lambda pair: pair[0]):
        if not compute:
            assert sum(size for _, size in run) < threshold


@given(sizes, starts, st.floats(0.01, 1))
def test_a_budget_computes_at_least_its_share(change: list[float], start: int, budget: float) -> None:
    flags = select_blocks(change, ["double"] * len(change), BlockReuse(budget=budget, start_block=start))
    assert sum(flags) >= math.ceil(budget * len(change) - 1e-9)
    assert all(flags[: start + 1])


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_budget_of_equal_blocks_is_close(blocks: int, wanted: int) -> None:
    assume(wanted <= blocks)
    rule = BlockReuse(budget=wanted / blocks, start_block=0)
    flags = select_blocks([1.0] * blocks, ["double"] * blocks, rule)
    run = blocks // wanted  # the longest distance between computed blocks that still computes enough
    assert wanted <= sum(flags) <= math.ceil(blocks / run)


@given(sizes, starts)
def test_the_whole_budget_computes_all(change: list[float], start: int) -> None:
    assert all(select_blocks(change, ["double"] * len(change), BlockReuse(budget=1.0, start_block=start)))


@given(sizes, st.integers(0, 19), st.sampled_from([math.nan, math.inf]))
def test_a_nonfinite_change_is_computed(change: list[float], at: int, bad: float) -> None:
    change[at % len(change)] = bad
    kinds = ["double"] * len(change)
    for rule in (BlockReuse(threshold=1e6, start_block=-1), BlockReuse(budget=0.1, start_block=-1)):
        assert select_blocks(change, kinds, rule)[at % len(change)]


# remapping


def longest_run(actions: str) -> int:
    return max((len(list(run)) for letter, run in groupby(actions) if letter == "."), default=0)


def sigmas(steps: int) -> list[float]:
    return [(1 - i / steps) * 10 for i in range(steps)]


@given(patterns, st.integers(1, 120), st.booleans())
def test_remapped_patterns(steps: str, count: int, with_sigmas: bool) -> None:
    policy = Policy.from_pattern(steps)
    known = (sigmas(len(steps)), sigmas(count)) if with_sigmas else ()
    found = remap(policy, count, *known)
    if count == len(steps):
        assert found is policy
        return
    actions = found.controller.steps
    assert len(actions) == count
    assert actions[0] == actions[-1] == "F"
    assert longest_run(actions) <= longest_run(steps)
    assert set(actions) <= set(steps) | {"F"}


@given(tables, st.integers(1, 60))
def test_remapped_tables(blocks: list[list[int]], count: int) -> None:
    found = remap(Policy(controller={"kind": "table", "blocks": blocks}), count).controller.blocks
    if count != len(blocks):
        assert all(found[0])
        assert all(found[-1])
        assert {tuple(row) for row in found} <= {tuple(row) for row in blocks} | {(1,) * len(blocks[0])}
        limit = longest_run("".join("F" if any(row) else "." for row in blocks))
        assert longest_run("".join("F" if any(row) else "." for row in found)) <= limit
    assert len(found) == count


def test_a_step_takes_the_action_of_the_nearest_sigma() -> None:
    policy = Policy.from_pattern("FBT.F")
    found = remap(policy, 4, [10.0, 5.0, 2.0, 1.0, 0.1], [9.0, 4.0, 1.8, 0.2])
    assert found.controller.steps == "FBTF"
    assert remap(Policy.from_pattern("F.F.F"), 9).controller.steps == "F.FFF.FFF"  # no run of two


def test_controllers_that_fit_any_number_are_left_alone() -> None:
    for controller in ({"kind": "interval", "every": 3}, {"kind": "dual-threshold", "critical": 0.3}):
        policy = Policy(controller=controller)
        assert remap(policy, 7, sigmas(50), sigmas(7)) is policy


@given(patterns, st.integers(0, 59))
def test_what_lies_ahead_of_a_step(steps: str, step: int) -> None:
    assume(step < len(steps))
    ahead = steps[step + 1 :].split("F")[0]
    found = actions_before_next_full(Policy.from_pattern(steps), step, len(steps))
    assert found == {Action(letter) for letter in ahead}


@given(
    st.integers(1, 6),
    st.lists(st.sampled_from(["skip", "token", "block"]), min_size=1, max_size=4),
    st.integers(0, 11),
    st.integers(1, 3),
)
def test_an_interval_is_planned_like_the_pattern_of_its_actions(
    every: int, between: list[str], step: int, history: int
) -> None:
    controller = {"kind": "interval", "every": every, "warmup": 2, "cooldown": 1, "between": between}
    policy = Policy(controller=controller)
    letters = "".join(policy.controller.action(i, 12) for i in range(12))
    same = Policy.from_pattern(letters)
    assert actions_before_next_full(policy, step, 12) == actions_before_next_full(same, step, 12)
    assert residual_is_read(policy, step, 12, history) == residual_is_read(same, step, 12, history)
    assert refreshes_blocks(policy) == refreshes_blocks(same)


@pytest.mark.parametrize(
    ("between", "problem"), [([], "at least 1 item"), (["full"], "'skip', 'token' or 'block'")]
)
def test_what_lies_between_is_no_full_step(between: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        Policy(controller={"kind": "interval", "every": 3, "between": between})
    assert caught.value.key.startswith("controller.between")
    assert "\n" not in str(caught.value)


def test_a_dual_threshold_may_do_what_its_polish_says() -> None:
    policy = Policy(controller={"kind": "dual-threshold", "critical": 1.0, "polish": ["token"]})
    assert actions_before_next_full(policy, 0, 9) == {Action.SKIP, Action.TOKEN}


@given(patterns, st.integers(0, 59), st.integers(1, 3))
def test_a_residual_is_read_when_a_reuse_comes_soon(steps: str, step: int, history: int) -> None:
    assume(step < len(steps))
    found = residual_is_read(Policy.from_pattern(steps), step, len(steps), history)
    before_reuse = re.match(r"[FB]*(?=[.T])", steps[step + 1 :])
    assert found == (before_reuse is not None and len(before_reuse.group()) < history)


def test_a_dual_threshold_reads_no_residual_of_early_warm_up_or_before_the_cool_down() -> None:
    policy = Policy(controller={"kind": "dual-threshold", "critical": 1.0, "warmup": 3, "cooldown": 2})
    assert [residual_is_read(policy, step, 9, 2) for step in range(9)] == [0, 1, 1, 1, 1, 1, 0, 0, 0]
