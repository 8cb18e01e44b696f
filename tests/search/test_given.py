"""Published rules and presets of other searches as a family of the space."""

from __future__ import annotations

import pytest

from autotune.scoring.doubles import FormulaEvaluator
from autotune.search.family import POLICY
from autotune.search.given import GIVEN, published_rules, with_given
from autotune.search.schedules import Scheduler
from autotune.search.screening import Screen
from autotune.search.space import SearchSpace
from tests.search.support import SPACE
from xslim.errors import ConfigError
from xslim.policy.policy import Pattern
from xslim.policy.preset import load_preset

PROFILE = FormulaEvaluator(50).profile(())


def test_every_published_rule_is_a_policy_and_can_be_replayed() -> None:
    space = with_given(SearchSpace.parse(SPACE), (), True, PROFILE.signature)
    scheduler = Scheduler(PROFILE)
    assert not space.families[GIVEN].seeds, "replay judges them"
    screen = Screen(space, scheduler, ("compute_fraction", "psnr"), {})
    points = [params for family, params in screen.points() if family == GIVEN]
    assert len(points) == len(published_rules()) == 8
    for seed in points:
        policy = space.policy(GIVEN, seed, PROFILE.calibration, scheduler)
        assert scheduler.replay.run(policy).compute_fraction < 1
        encoded = space.encode(GIVEN, seed)
        assert encoded["family"] == GIVEN
        assert encoded[f"{GIVEN}/{POLICY}"] in space.families[GIVEN].params[POLICY].encoded


def test_a_preset_of_another_number_of_steps_is_remapped() -> None:
    fewer = FormulaEvaluator(20).profile(())
    space = with_given(SearchSpace.parse(SPACE), ("dit-digits/balanced",), False, fewer.signature)
    (seed,) = space.families[GIVEN].seeds
    controller = space.policy(GIVEN, seed, fewer.calibration, None).controller
    source = load_preset("dit-digits/balanced").policy.controller
    assert isinstance(controller, Pattern)
    assert isinstance(source, Pattern)
    assert (len(source.steps), len(controller.steps)) == (50, 20)
    share = source.steps.count("F") / 50
    assert share * 0.6 < controller.steps.count("F") / 20 < share * 2


def test_nothing_given_changes_nothing() -> None:
    space = SearchSpace.parse(SPACE)
    assert with_given(space, (), False, PROFILE.signature) is space


def test_errors_name_what_is_wrong() -> None:
    space = SearchSpace.parse(SPACE)
    taken = space.model_copy(update={"families": {GIVEN: space.families["pattern"]}})
    with pytest.raises(ConfigError, match=r"families\.given: is the name of the given policies"):
        with_given(taken, (), True, PROFILE.signature)
    with pytest.raises(ConfigError, match="no-such-preset"):
        with_given(space, ("no-such-preset",), False, PROFILE.signature)
