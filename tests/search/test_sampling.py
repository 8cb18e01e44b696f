"""Searches over the number of steps and the scheduler: space, replay, screening, a whole search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.scoring.case import Case
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.sampling import REFERENCE, Sampling, SchedulerChoice, preset_sampling, sampling_of
from autotune.search.identity import effective_key
from autotune.search.parts import Job, PartStore
from autotune.search.points import budgets, seeds
from autotune.search.replay import Replay
from autotune.search.schedules import Scheduler
from autotune.search.screening import Screen
from autotune.search.space import SearchSpace
from autotune.search.warm_starts import warm_starts
from tests.search.residuals import HOLD, of_steps, random_profile
from tests.search.support import SPACE, STEPS, Search, merged
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.preset import load_preset

SOLVER = "DPMSolverMultistepScheduler"
REQUEST: dict[str, Any] = {
    "request.num_steps": {"type": "int", "low": 5, "high": 14},
    "request.scheduler": {"type": "categorical", "choices": [None, SOLVER]},
}
PATTERN = SPACE["families"]["pattern"]
DATA = merged(SPACE, {"families.pattern": {**PATTERN, "params": {**PATTERN["params"], **REQUEST}}})


def joint_space() -> SearchSpace:
    return SearchSpace.parse(DATA)


def screen_of(space: SearchSpace) -> Screen:
    return Screen(space, Scheduler(FormulaEvaluator(STEPS).profile(())), ("latency", "psnr"), {})


@pytest.mark.parametrize(
    ("key", "searched", "says"),
    [
        ("request.num_steps", {"type": "int", "low": 1, "high": 9}, "request.num_steps: got 1"),
        ("request.num_steps", {"type": "float", "low": 5.5, "high": 9.0}, "request.num_steps: got 5.5"),
        ("request.guidance", {"type": "float", "low": 1.0, "high": 2.0}, "request.guidance: unknown key"),
        ("request.scheduler", {"type": "categorical", "choices": [3]}, "request.scheduler"),
        ("request.scheduler", {"type": "categorical", "choices": [{"class": SOLVER}]}, "request.scheduler"),
    ],
)
def test_a_request_at_fault_is_one_line(key: str, searched: dict[str, Any], says: str) -> None:
    changed = {**PATTERN, "params": {**PATTERN["params"], key: searched}}
    with pytest.raises(ConfigError) as caught:
        SearchSpace.parse(merged(SPACE, {"families.pattern": changed}))
    assert f"families.pattern.{says}" in str(caught.value)


def test_a_space_is_held_at_a_sampling() -> None:
    space = joint_space()
    usual = space.at(REFERENCE, STEPS)
    assert set(usual.families) == {"online", "pattern"}
    assert usual.families["pattern"].middle()["request.num_steps"] == STEPS
    other = space.at(Sampling(num_steps=7), STEPS)
    assert set(other.families) == {"pattern"}, "the online family does not search the number of steps"
    assert {p["request.num_steps"] for _, p in budgets(other)} == {7}
    assert {p["request.scheduler"] for _, p in budgets(other)} == {None}
    solver = space.at(Sampling(scheduler=SchedulerChoice(name=SOLVER)), STEPS)
    assert solver.families["pattern"].middle()["request.scheduler"] == SOLVER
    assert not space.at(Sampling(num_steps=3), STEPS).families
    assert space.samplings(STEPS) == [REFERENCE, *(Sampling(num_steps=n) for n in (5, 8, 11, 14))]
    assert SearchSpace.parse(SPACE).samplings(STEPS) == [REFERENCE]
    ((key, chosen),) = space.schedulers
    assert (key, chosen.name) == ("families.pattern.params.request.scheduler.choices.1", SOLVER)


@pytest.mark.parametrize(
    ("searched", "first", "others"),
    [
        ({"type": "int", "low": 5, "high": 9}, 5, {6, 8, 9}),  # the reference's 12 are no choice
        ({"type": "categorical", "choices": [None, 6]}, None, {6}),
        ({"type": "categorical", "choices": [6, 12]}, 12, {6}),
        ({"type": "categorical", "choices": [None, 12, 6]}, 12, {6}),  # the same one in every process
    ],
)
def test_every_family_is_looked_at_in_full_at_one_number_of_steps(
    searched: dict[str, Any], first: int | None, others: set[int]
) -> None:
    params = {**PATTERN["params"], "request.num_steps": searched}
    space = SearchSpace.parse(merged(SPACE, {"families.pattern": {**PATTERN, "params": params}}))
    found = [p for family, p in screen_of(space).points() if family == "pattern"]
    assert {p["request.num_steps"] for p in found} == {first} | others
    assert {p["request.num_steps"] for p in found if p["schedule.refreshes"]} == {first}
    assert len(warm_starts(screen_of(space), 12)) == 13, "and the space's seed"


def test_seeds_are_sampled_as_the_reference_unless_they_say_otherwise() -> None:
    given_seeds = [{"schedule.full_steps": 4}, {"request.num_steps": 6}]
    data = merged(DATA, {"families.pattern": {**DATA["families"]["pattern"], "seeds": given_seeds}})
    found = [params for family, params in seeds(SearchSpace.parse(data), STEPS) if family == "pattern"]
    assert [params["request.num_steps"] for params in found] == [STEPS, 6]


def test_every_point_is_a_policy_of_its_number_of_steps() -> None:
    screen = screen_of(joint_space())
    seen = set()
    for family, params in screen.points():
        policy, sampling = screen.setting(family, params)
        steps = sampling.steps(STEPS)
        assert params.get("request.num_steps", STEPS) == steps
        assert sampling.num_steps != STEPS, "the reference's own number is no other sampling"
        if family == "pattern":
            assert policy.num_steps == steps
            assert policy.controller.to_data()["steps"][0] == "F"
        seen.add(steps)
    assert seen == {5, 8, 11, 12, 14}


def test_the_same_policy_at_another_sampling_is_another_candidate(tmp_path: Path) -> None:
    policy, other = Policy.from_pattern("F.F.F"), Sampling(num_steps=5)
    assert effective_key(policy) == effective_key(policy, REFERENCE) != effective_key(policy, other)
    store, cases = PartStore(tmp_path, {}), (Case(0, 1),)
    store.put(Job(policy, cases, 0), FormulaEvaluator(5).evaluate(policy, cases, 0))
    assert store.get(Job(policy, cases, 0)) is not None
    assert store.get(Job(policy, cases, 0, sampling=other)) is None


@given(steps=st.integers(2, 30), seed=st.integers(0, 5))
def test_fewer_steps_are_replayed_as_holding_in_between(steps: int, seed: int) -> None:
    """A request of fewer steps, all computed, holds each residual until its next step."""
    profile, _ = random_profile(seed, STEPS)
    whole = replace(profile, cost=FormulaEvaluator(STEPS).cost_model((), 0))
    replayed = Replay(whole.at_steps(steps), whole).run(Policy.from_pattern("F" * steps))
    nodes = sorted(set(profile.nodes(steps).tolist()))
    held = Replay(whole).run(of_steps(tuple(nodes), STEPS, HOLD))
    assert replayed.products == pytest.approx(held.products, abs=1e-9)
    assert replayed.compute_fraction == pytest.approx(steps / STEPS)
    assert len(replayed.actions[0]) == steps


def test_the_reference_number_of_steps_is_the_profile_itself() -> None:
    profile, _ = random_profile(1, STEPS)
    assert profile.at_steps(STEPS) is profile
    policy = of_steps((0, 3, 7), STEPS, HOLD)
    whole = replace(profile, cost=FormulaEvaluator(STEPS).cost_model((), 0))
    assert (Replay(whole).run(policy).products == Replay(whole, whole).run(policy).products).all()


@pytest.mark.parametrize("steps", [2, 5, 7, 23])
def test_signals_add_up_over_the_steps_in_between(steps: int) -> None:
    profile = FormulaEvaluator(STEPS).profile(())
    other = profile.at_steps(steps)
    for name, values in other.signals.items():
        assert values.shape == (steps - 1, 1)
        assert values.sum() == pytest.approx(profile.signals[name].sum())
    assert (other.gram == profile.gram[:, profile.nodes(steps)][:, :, profile.nodes(steps)]).all()
    assert other.signature.num_steps == other.num_steps == steps
    assert other.cost is not None
    assert (other.cost.num_steps, len(other.cost.branches[0].changes)) == (steps, steps)
    assert np.isclose(other.sensitivity.sum(), profile.sensitivity.sum())


def test_warm_starts_try_other_steps_and_every_scheduler() -> None:
    space = joint_space()
    screen = screen_of(space)
    points = warm_starts(screen, 10)
    assert len(points) == 11
    samplings = [space.families[family].sampling(params) for family, params in points]
    assert [s.scheduler.name for s in samplings if s.scheduler is not None] == [SOLVER]
    assert len({s.num_steps for s in samplings}) > 2


def test_a_search_over_steps_and_schedulers_ends_in_presets_of_their_own(tmp_path: Path) -> None:
    search = Search(tmp_path, {"search.trials": 30, "bounds": {}}, DATA)
    outcome = search.run()
    rows = [row for row in search.rows if row.duplicate_of is None]
    sampled = [sampling_of(row.sampling) for row in rows]
    assert len({s.steps(STEPS) for s in sampled}) > 3
    assert {None if s.scheduler is None else s.scheduler.name for s in sampled} == {None, SOLVER}
    for row, sampling in zip(rows, sampled, strict=True):
        assert len(row.actions) == sampling.steps(STEPS)
        computed = sum(0.02 if letter == "." else 1.0 for letter in row.actions if letter in "F.")
        if not set(row.actions) & {"B", "T"}:
            assert row.scalars["compute_fraction"] == pytest.approx(computed / STEPS)
    others = 0
    for member in outcome.summary["front"]:
        preset = load_preset(tmp_path / member["preset"])
        sampling = preset_sampling(preset)
        assert preset.model.num_steps == sampling.steps(STEPS) == len(member["actions"])
        others += sampling != REFERENCE
    assert others, "a number of steps between those is on the front"
    again = Search(tmp_path, {**search.changes, "search.trials": 32}, DATA).run(resume=True)
    assert again.summary["trials"]["complete"] == 32
