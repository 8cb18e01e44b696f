"""Search spaces: every point is a valid policy, and a space at fault is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from autotune.scoring.doubles import FormulaEvaluator
from autotune.search.points import seeds
from autotune.search.schedules import Scheduler
from autotune.search.screening import MOST_COMPUTE, Screen
from autotune.search.space import SearchSpace
from autotune.search.warm_starts import warm_starts
from tests.search.support import SPACE, STEPS, merged
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "search_spaces").glob("*.yaml"))
STARTED = ("dit-digits", "flux-digits", "hunyuan-digits", "dit-digits-steps")
PROFILE = FormulaEvaluator(50).profile(())
SHIPPED = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def random_study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))


def one_family(**changes: Any) -> dict[str, Any]:
    """A space of one small family with some of its keys replaced."""
    family = {
        "base": {"controller": {"kind": "dual-threshold", "critical": 0.3}},
        "params": {"controller.critical": {"type": "float", "low": 0.1, "high": 1.0}},
    }
    return {"families": {"only": {**family, **changes}}}


@pytest.fixture(scope="module")
def scheduler() -> Scheduler:
    return Scheduler(PROFILE)


@pytest.fixture(scope="module")
def short() -> Scheduler:
    """Of fewer steps, for many points: the spaces are for 50, but a schedule is cut to what there is."""
    return Scheduler(FormulaEvaluator(STEPS).profile(()))


def check_policy(policy: Policy, params: dict[str, Any], scheduler: Scheduler) -> None:
    assert Policy.parse(policy.to_data()) == policy
    if policy.controller.kind == "pattern":
        asked = any(key.startswith("schedule.") for key in params)
        assert len(policy.controller.steps) == (scheduler.profile.num_steps if asked else 50)
    else:
        assert sum(policy.indicator.signals.values()) == pytest.approx(1)
        assert policy.controller.critical > 0


@SHIPPED
def test_every_point_of_a_shipped_space_is_a_valid_policy(
    path: Path, scheduler: Scheduler, short: Scheduler
) -> None:
    space, study = SearchSpace.load(path), random_study()
    seen = set()
    for i in range(60):
        planner = scheduler if i % 8 == 0 else short
        family, params = space.sample(study.ask())
        policy = space.policy(family, params, planner.profile.calibration, planner)
        check_policy(policy, params, planner)
        seen.add(family)
    assert seen == set(space.families)


@SHIPPED
def test_what_a_point_asks_of_the_profile_reaches_the_policy(path: Path, short: Scheduler) -> None:
    space = SearchSpace.load(path)
    for name, family in space.families.items():
        middle = family.middle()
        if "schedule.full_steps" in family.params:
            low, high = (
                space.policy(name, {**middle, "schedule.refreshes": 0, "schedule.full_steps": n}, {}, short)
                for n in (4, 8)
            )
            assert [low.controller.steps.count("F"), high.controller.steps.count("F")] == [4, 8]
        if "quantile.critical" in family.params:
            low, high = (
                space.policy(name, {**middle, "quantile.critical": q}, short.profile.calibration, short)
                for q in (0.1, 0.9)
            )
            assert 0 < low.controller.critical < high.controller.critical
            assert low.controller.critical == short.threshold(low, 0.1)


# of the spaces over steps one: they differ in the scheduler's name
@pytest.mark.parametrize("path", [p for p in FILES if p.stem in STARTED], ids=lambda path: path.stem)
def test_warm_starts_are_points_of_the_space(path: Path, short: Scheduler) -> None:
    space, study = SearchSpace.load(path), random_study()
    screen = Screen(space, short, ("latency", "lpips"), {})
    assert warm_starts(screen, 0) == []
    points = warm_starts(screen, 12)
    named = list(seeds(space, STEPS))
    assert len(points) == 12 + len(named)
    assert points[: len(named)] == named, "what the space names is tried, whatever replay thinks of it"
    chosen = points[len(named) :]
    if not space.schedulers:  # their points come last, however many are asked for
        assert [*named, *chosen[:3]] == warm_starts(screen, 3)
    for family, params in points:
        study.enqueue_trial(space.encode(family, params))
        assert space.sample(study.ask()) == (family, params)
        policy, sampling = screen.setting(family, params)
        candidate = screen.candidate(family, params)
        if sampling.num_steps is None:
            check_policy(policy, params, short)
            assert short.replay.run(policy).compute_fraction == candidate.compute_fraction
        else:
            assert policy.num_steps == sampling.num_steps
        assert (candidate.policy, candidate.sampling) == (policy, sampling)
        assert candidate.compute_fraction <= MOST_COMPUTE or (family, params) in named
    known = {screen.candidate(*point).key for point in named}
    assert len(known | {screen.candidate(*point).key for point in chosen}) == len(known) + 12


def test_a_sampled_point_survives_the_study() -> None:
    space, study = SearchSpace.parse(SPACE), random_study()
    for _ in range(30):
        family, params = space.sample(study.ask())
        study.enqueue_trial(space.encode(family, params))
        assert space.sample(study.ask()) == (family, params)


def test_encoding_clips_into_the_ranges_and_fills_gaps() -> None:
    space = SearchSpace.parse(SPACE)
    encoded = space.encode("pattern", {"schedule.full_steps": 99, "schedule.refreshes": -1})
    assert encoded["pattern/schedule.full_steps"] == 10
    assert encoded["pattern/schedule.refreshes"] == 0
    assert encoded["pattern/schedule.polish"] == '"T"'
    assert encoded["family"] == "pattern"


def test_weights_are_shares_and_no_weights_are_equal_ones() -> None:
    family = SearchSpace.parse(SPACE).families["online"]
    names = ("indicator.signals.modulated_input", "indicator.signals.step_table")
    for given, expected in (((0.0, 0.0), (0.5, 0.5)), ((0.3, 0.1), (0.75, 0.25))):
        policy = family.build(dict(zip(names, given, strict=True)), PROFILE.calibration, None)
        assert tuple(policy.indicator.signals.values()) == pytest.approx(expected)


def test_the_profile_calibrates_the_default_signal_too() -> None:
    table = PROFILE.calibration["step_table"]
    policy = SearchSpace.parse(one_family()).policy("only", {}, {"modulated_input": table}, None)
    assert policy.signals == ("modulated_input",)
    assert set(policy.indicator.calibration) == {"modulated_input"}


def test_a_file_of_one_family_needs_no_families_key() -> None:
    inner = one_family()["families"]["only"]
    assert list(SearchSpace.parse({"schema_version": 1, **inner}).families) == ["default"]
    assert SearchSpace.parse({**inner, "seeds": [{"controller.critical": 0.2}]}).families["default"].seeds


def test_the_base_may_be_a_preset(tmp_path: Path) -> None:
    from tests.golden.test_golden import preset
    from xslim import save_preset

    save_preset(preset(), tmp_path / "base.yaml")
    space = SearchSpace.parse(one_family(base=str(tmp_path / "base.yaml")))
    policy = space.policy("only", {"controller.critical": 0.125}, {}, None)
    assert policy.controller.critical == 0.125
    assert policy.controller.warmup == preset().policy.controller.warmup


FLOAT = {"type": "float", "low": 0.1, "high": 1.0}
PATTERN = {"controller": {"kind": "pattern", "steps": "F"}}
FULL = {"type": "int", "low": 2, "high": 9}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"params": {"controller.critcal": FLOAT}}, "critcal"),
        ({"params": {"contrller.critical": FLOAT}}, "contrller"),
        ({"params": {"controller.critical": {**FLOAT, "low": -0.1}}}, "controller.critical"),
        ({"params": {"controller.critical": {**FLOAT, "low": 2.0}}}, "controller.critical"),
        ({"params": {"controller.critical": {**FLOAT, "low": 0.0, "log": True}}}, "controller.critical"),
        ({"params": {"controller.critical": {**FLOAT, "lgo": True}}}, "controller.critical.lgo"),
        ({"params": {"controller.critical": {**FLOAT, "type": "flot"}}}, "controller.critical"),
        ({"params": {"controller.critical": {**FLOAT, "high": "1"}}}, "controller.critical.high"),
        ({"params": {"controller.warmup": FLOAT}}, "controller.warmup"),
        ({"params": {"token.budget": {"type": "float", "low": 0.0, "high": 1.0}}}, "token.budget"),
        ({"params": {"controller.polish": {"type": "categorical", "choices": []}}}, "controller.polish"),
        ({"params": {"predictor": {"type": "categorical", "choices": [{"kind": "hold"}, {"kind": "hlod"},
                                                                      {"kind": "newton"}]}}}, "predictor"),
        ({"params": {"batch.size": FLOAT}, "base": {**PATTERN, "batch": "per-sample"}}, "batch"),
        ({"params": {"controller": FLOAT}}, "controller"),
        ({"params": {"indicator.signals.modulated": FLOAT}}, "indicator.signals.modulated"),
        ({"base": {"controller": "dual-threshold"}}, "controller"),
        ({"base": {"controller": {"kind": "dual-threshold", "critical": 1.0}, "indicator": 3}}, "indicator"),
        ({"base": {"controller": {"kind": "dual-threshold", "critical": 1.0}, "indicator": {"signals": [1]}}},
         "indicator.signals"),
        ({"base": "no-such/preset"}, "no-such/preset"),
        ({"base": PATTERN, "params": {"schedule.full": FULL}}, "schedule.full"),
        ({"base": PATTERN, "params": {"schedule.full_steps": FULL, "schedule.polish":
                                      {"type": "categorical", "choices": ["T", "X"]}}}, "schedule.polish"),
        ({"base": PATTERN, "params": {"schedule.full_steps": FULL, "schedule.polish":
                                      {"type": "categorical", "choices": ["T", ""]}}}, "schedule.polish"),
        ({"base": PATTERN, "params": {"schedule.full_steps":
                                      {"type": "categorical", "choices": ["a"]}}}, "schedule.full_steps"),
        ({"base": PATTERN, "params": {"schedule.full_steps": FULL, "schedule.refreshes":
                                      {"type": "int", "low": -2, "high": 3}}}, "schedule.refreshes"),
        ({"base": PATTERN, "params": {"schedule.tilt": {**FLOAT, "high": 11.0}}}, "schedule.tilt"),
        ({"base": PATTERN, "params": {"schedule.tilt":
                                      {"type": "categorical", "choices": [0.0, "1"]}}}, "schedule.tilt"),
        ({"base": PATTERN, "params": {"schedule.bend": {**FLOAT, "low": -11.0}}}, "schedule.bend"),
        ({"base": PATTERN, "params": {"schedule.coherence": {**FLOAT, "high": 1.1}}}, "schedule.coherence"),
        ({"base": PATTERN, "params": {"schedule.coherence": {**FLOAT, "low": -0.1}}}, "schedule.coherence"),
        ({"base": PATTERN, "params": {"schedule.rule":
                                      {"type": "categorical", "choices": ["sum", "mean"]}}}, "schedule.rule"),
        ({"base": PATTERN, "params": {"schedule.coherance": FLOAT}}, "schedule.coherance"),
        ({"params": {"quantile.critical": {**FLOAT, "high": 1.5}}}, "quantile.critical"),
        ({"params": {"quantile.critical": {**FLOAT, "low": -0.5}}}, "quantile.critical"),
        ({"params": {"quantile.critical": {"type": "categorical", "choices": ["a"]}}}, "quantile.critical"),
        ({"params": {"quantile.warning": FLOAT}}, "quantile.warning"),
        ({"params": {"quantile": FLOAT}}, "quantile"),
        ({"params": {"quantile.critical": FLOAT}, "seeds": [{"quantile.critical": 2.0}]}, "seeds.0"),
        ({"base": {**PATTERN, "predictor": "hold"}, "params": {"schedule.full_steps": FULL}}, "predictor"),
        ({"seeds": [{"controller.warmup": 2}]}, "seeds.0"),
        ({"seeds": [{"controller.critical": "0.5"}]}, "seeds.0"),
        ({"params": {"controller.polish": {"type": "categorical", "choices": [[], ["token"]]}},
          "seeds": [{"controller.polish": ["block"]}]}, "seeds.0"),
    ],
)  # fmt: skip
def test_a_space_at_fault_is_one_line_that_names_the_key(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchSpace.parse(one_family(**changes), "space.yaml")
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("space.yaml: families.only")
    assert key in line


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"families": {}}, "families"),
        ({"familes": {}}, "familes: unknown key; did you mean 'families'"),
        ({"families": {"a": 3}}, "families.a"),
        ({**SPACE, "schema_version": 2}, "schema_version"),
        (merged(SPACE, {"families.online.seeds": 5}), "families.online.seeds"),
        (merged(SPACE, {"families.online.params": [1]}), "families.online.params"),
    ],
)
def test_a_space_of_another_form_is_refused(data: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchSpace.parse(data)
    assert key in str(caught.value)
