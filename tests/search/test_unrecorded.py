"""Published signals and maps in a search: what a profile does not tell is measured, never replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from autotune.scoring.doubles import FormulaEvaluator
from autotune.search.schedules import Scheduler
from autotune.search.screening import Screen
from autotune.search.space import SearchSpace
from autotune.search.warm_starts import warm_starts
from tests.search.support import FLOAT, SPACE, merged
from xslim.errors import ConfigError
from xslim.policy.policy import Policy

STEPS = 20
PROFILE = FormulaEvaluator(STEPS).profile(())
TWO = ("compute_fraction", "psnr")
COMPUTED = {"signals": {"first_block": 1.0}, "compare": "computed", "accumulate": "latest"}


def family(indicator: dict[str, Any], **params: object) -> dict[str, Any]:
    """An online family that searches its critical line, with two seeds."""
    return {
        "base": {"controller": {"kind": "dual-threshold", "critical": 0.1}, "indicator": indicator},
        "params": {"controller.critical": {"type": "float", "low": 0.02, "high": 0.5}, **params},
        "seeds": [{"controller.critical": 0.08}, {"controller.critical": 0.12}],
    }


def space(indicator: dict[str, Any], **params: object) -> SearchSpace:
    return SearchSpace.parse(merged(SPACE, {"families.fbc": family(indicator, **params)}))


def test_what_a_profile_does_not_tell_is_not_replayed() -> None:
    policy = Policy(controller={"kind": "dual-threshold", "critical": 0.1}, indicator=COMPUTED)
    scheduler = Scheduler(PROFILE)
    assert not scheduler.replay.knows(policy)
    for refused in (lambda: scheduler.replay.run(policy), lambda: scheduler.threshold(policy, 0.5)):
        with pytest.raises(ConfigError, match=r"indicator\.compare: got computed") as caught:
            refused()
        assert "\n" not in str(caught.value)
    static = Policy(controller={"kind": "pattern", "steps": "F." * 10}, indicator=COMPUTED)
    recorded = Policy(
        controller={"kind": "dual-threshold", "critical": 0.1},
        indicator={"signals": {"latent_velocity": 1.0}, "compare": "computed"},
    )
    for known in (static, recorded):
        assert scheduler.replay.run(known).compute_fraction <= 1


def test_its_seeds_are_warm_starts_all_the_same() -> None:
    screen = Screen(space(COMPUTED), Scheduler(PROFILE), TWO, {})
    own = [params for name, params in warm_starts(screen, 40) if name == "fbc"]
    assert own == [{"controller.critical": 0.08}, {"controller.critical": 0.12}]
    one = screen.candidate("fbc", own[0])
    assert np.isnan(one.compute_fraction)


def test_its_trials_leave_the_error_model_as_it_was() -> None:
    screen = Screen(space(COMPUTED), Scheduler(PROFILE), TWO, {})
    for critical in (0.05, 0.1, 0.2):
        policy, sampling = screen.setting("fbc", {"controller.critical": critical})
        screen.note(policy, sampling, {"compute_fraction": 0.5, "psnr": 30.0})
    assert screen.facts()["trials"] == 0


def test_a_quantile_of_what_is_not_recorded_is_refused_with_the_space() -> None:
    with pytest.raises(ConfigError, match=r"quantile: a profile does not tell changes") as caught:
        space(COMPUTED, **{"quantile.critical": FLOAT})
    assert "\n" not in str(caught.value)
    space({**COMPUTED, "compare": "previous"}, **{"quantile.critical": FLOAT})


def test_the_profiles_map_of_neighbouring_steps_is_not_put_on_other_changes() -> None:
    both = {"modulated_input": 1.0, "step_table": 1.0}
    fitted = dict.fromkeys(both, PROFILE.calibration["step_table"])
    for compare, maps in (("previous", {"modulated_input", "step_table"}), ("computed", {"step_table"})):
        built = space({"signals": both, "compare": compare}).policy(
            "fbc", {"controller.critical": 0.1}, fitted, None
        )
        assert set(built.indicator.calibration) == maps


def test_a_published_polynomial_stays_where_the_profile_has_a_map_too() -> None:
    polynomial = {"polynomial": [498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861]}
    indicator = {"signals": {"modulated_input": 1.0}, "calibration": {"modulated_input": polynomial}}
    fitted = {"modulated_input": PROFILE.calibration["step_table"]}
    found = space(indicator).policy("fbc", {"controller.critical": 0.25}, fitted, None)
    assert found.indicator.calibration["modulated_input"].to_data() == polynomial
    table = {"x": [0.0, 1.0], "y": [0.0, 9.0]}  # of another profile
    indicator = {**indicator, "calibration": {"modulated_input": table}}
    found = space(indicator).policy("fbc", {"controller.critical": 0.25}, fitted, None)
    assert found.indicator.calibration["modulated_input"] == fitted["modulated_input"]


def test_a_threshold_is_never_negative() -> None:
    """A published polynomial may be negative on every recorded signal."""
    policy = Policy(
        controller={"kind": "dual-threshold", "critical": 0.1},
        indicator={
            "signals": {"latent_velocity": 1.0},
            "calibration": {"latent_velocity": {"polynomial": [-1.0]}},
        },
    )
    scheduler = Scheduler(PROFILE)
    assert scheduler.replay.readings(policy, 0)[5], "the signal is recorded"
    assert scheduler.threshold(policy, 0.5) == 0.0
