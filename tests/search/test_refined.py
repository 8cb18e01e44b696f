"""Lessons for candidates: learned on the workers, kept, and only where they apply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from autotune.scoring.case import Case
from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.evaluator import Evaluator
from autotune.scoring.lesson import Learned, Lesson
from autotune.scoring.measurement import Measurement
from autotune.scoring.sampling import Sampling, preset_sampling
from autotune.search import refined
from autotune.search.dispatch import Dispatcher
from autotune.search.executor import LocalExecutor
from autotune.search.lessons import Lessons
from autotune.search.refined import few_steps, with_correctors, with_levels
from autotune.search.trial_row import TrialRow
from tests.search.support import EXPERIMENT, STEPS, FormulaFactory, Search, merged
from tests.search.test_sampling import DATA as OVER_STEPS
from xslim.errors import ConfigError
from xslim.policy.policy import Policy
from xslim.policy.preset import load_preset

PATTERN = Policy.from_pattern("F.F.F.F.F.F.").to_data()
FULL = Policy.from_pattern("F" * STEPS).to_data()
TABLE = Policy.parse({"controller": {"kind": "table", "blocks": [[1, 1], [0, 1]] * 6}}).to_data()


@dataclass(frozen=True)
class Teaching(FormulaEvaluator):
    """A corrector halves every prediction; learning is counted in a file."""

    num_steps: int = STEPS
    log: str = ""

    def learn(self, lesson: Lesson, given: Learned, cases: Any) -> Learned:
        with Path(self.log).open("a") as file:
            file.write(f"{lesson.name} {dict(lesson.settings)}\n")
        corrector = {"kind": "affine", "slope": [0.5] * STEPS, "offset": [0.0] * STEPS}
        return Learned(Policy.parse({**given.policy.to_data(), "corrector": corrector}), given.sampling)

    def build(self) -> Evaluator:
        return self


class Helped(Teaching):
    """A corrector adds 3 dB."""

    def evaluate(self, policy: Policy, *given: Any, **more: Any) -> Measurement:
        found = super().evaluate(policy, *given, **more)
        if policy.corrector is None:
            return found
        rows = {**found.quality.rows, "psnr": found.quality.rows["psnr"] + 3}
        return replace(found, quality=replace(found.quality, rows=rows))


class Fitting(Teaching):
    """Fitted noise levels add 3 dB."""

    def learn(self, lesson: Lesson, given: Learned, cases: Any) -> Learned:
        steps = given.sampling.steps(self.num_steps)
        fitted = given.sampling.model_copy(update={"sigmas": tuple(1 - i / steps for i in range(steps))})
        with Path(self.log).open("a") as file:
            file.write(f"{lesson.name}\n")
        return replace(given, sampling=fitted)

    def evaluate(self, policy: Policy, *given: Any, **more: Any) -> Measurement:
        found = super().evaluate(policy, *given, **more)
        sampling = more.get("sampling") or given[-1]
        if not isinstance(sampling, Sampling) or sampling.sigmas is None:
            return found
        rows = {**found.quality.rows, "psnr": found.quality.rows["psnr"] + 3}
        return replace(found, quality=replace(found.quality, rows=rows))


def row(trial: int, policy: dict[str, Any]) -> TrialRow:
    return TrialRow(trial, "f", {}, policy, {"psnr": 30.0}, "F", "trace")


def lessons(folder: Path) -> Lessons:
    executor = LocalExecutor()
    executor.start(Teaching(log=str(folder / "log")))
    return Lessons(Dispatcher(executor), folder / "learned", (Case(0, 1),), {"model": "m"}, lambda: False)


def test_patterns_that_skip_come_once_more(tmp_path: Path) -> None:
    rows = [row(0, PATTERN), row(1, FULL), row(2, TABLE)]
    found = with_correctors(rows, lessons(tmp_path), lambda line: None)
    assert found[:3] == rows
    (more,) = found[3:]
    assert more.trial == 0
    assert more.scalars == {}, "it was not measured on the search cases"
    assert Policy.parse(more.policy).corrector is not None


def test_what_was_learned_is_kept(tmp_path: Path) -> None:
    for _ in range(2):
        with_correctors([row(0, PATTERN)], lessons(tmp_path), lambda line: None)
    assert (tmp_path / "log").read_text() == "rectify {'per_channel': True}\n"


def test_a_search_certifies_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula does not see a corrector: both are equal, so that the first one, without, is exported."""
    teaching = Teaching(log=str(tmp_path / "log"))
    monkeypatch.setattr(FormulaFactory, "build", lambda self: teaching)
    told: list[str] = []
    changes = {"search": {**EXPERIMENT["search"], "rectify": True}}
    search = Search(tmp_path / "run", changes)
    search.run(show=lambda status: told.append(status.phase))
    fitted = sum(line.startswith("rectify") for line in (tmp_path / "log").read_text().splitlines())
    assert fitted > 0
    sizes = [line for line in told if line.startswith("certifying ")]
    assert int(sizes[0].split()[1]) > fitted


def test_a_preset_with_a_corrector_has_no_numbers_of_the_search_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teaching = Helped(log=str(tmp_path / "log"))
    monkeypatch.setattr(FormulaFactory, "build", lambda self: teaching)
    search = Search(tmp_path / "run", {"search": {**EXPERIMENT["search"], "rectify": True}})
    search.run()
    presets = [load_preset(path) for path in sorted((tmp_path / "run/presets").glob("front-*.yaml"))]
    helped = [preset.policy.corrector is not None for preset in presets]
    assert any(helped)
    assert ["search_scalars" not in preset.provenance for preset in presets] == helped


@pytest.mark.parametrize("key", ["corrector", "request.sigmas"])
def test_a_policy_that_cannot_learn_stays_as_it_is(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A learner's refusal is the policy's, and no fault of the input: the rest goes on."""

    def refuse(*_: Any) -> Learned:
        raise ConfigError("too wide", key=key)

    monkeypatch.setattr(Teaching, "learn", refuse)
    assert with_correctors([row(0, PATTERN)], lessons(tmp_path), lambda line: None) == [row(0, PATTERN)]
    (said,) = lessons(tmp_path).learn_all([Learned(Policy.parse(PATTERN))], "rectify", [{}])
    assert isinstance(said, str)
    assert "too wide" in said


def test_when_told_to_stop_no_lesson_is_begun(tmp_path: Path) -> None:
    stopped = replace(lessons(tmp_path), stop=lambda: True)
    assert stopped.learn_all([Learned(Policy.parse(PATTERN))] * 2, "rectify", [{}, {}]) == ["stopped"] * 2
    assert not (tmp_path / "log").exists()


def few(trial: int, steps: int, psnr: float, actions: str = "") -> TrialRow:
    actions = actions or "F" * steps
    scalars, sampling = {"psnr": psnr}, {"num_steps": steps}
    policy = Policy.from_pattern(actions).to_data()
    return TrialRow(trial, "f", {}, policy, scalars, actions, "t", sampling=sampling)


def test_of_every_small_number_of_steps_the_best_full_row_counts() -> None:
    rows = [few(0, 4, 20.0), few(1, 4, 22.0), few(2, 5, 25.0, "FF.FF"), few(3, 6, 26.0), few(4, 17, 40.0)]
    repeated = replace(few(5, 6, 30.0), duplicate_of=3)
    online = replace(few(6, 6, 30.0), policy={"controller": {"kind": "dual-threshold", "critical": 1e-9}})
    found = few_steps([*rows, repeated, online], 50, lambda row: -row.scalars["psnr"])
    assert [row.trial for row in found] == [1, 3]


def test_requests_of_few_steps_come_once_more_with_levels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(self: Teaching, lesson: Lesson, given: Learned, cases: Any) -> Learned:
        assert lesson.name == "fit-levels"
        return replace(given, sampling=Sampling(sigmas=(1.0, 0.7, 0.4, 0.1)))

    monkeypatch.setattr(Teaching, "learn", fit)
    rows = [row(0, PATTERN)]
    found = with_levels(rows, [few(1, 4, 20.0)], lessons(tmp_path), lambda line: None)
    assert found[:1] == rows
    assert found[1].sampling == {"num_steps": 4, "sigmas": [1.0, 0.7, 0.4, 0.1]}
    assert found[1].scalars == {}


def test_a_search_exports_fitted_levels_that_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = Fitting(log=str(tmp_path / "log"))
    monkeypatch.setattr(FormulaFactory, "build", lambda self: fitting)
    monkeypatch.setattr(refined, "FEW", 1.5)
    rest = {
        "schedule.refreshes": 0,
        "schedule.polish": "T",
        "block.budget": 0.5,
        "predictor": {"kind": "hold"},
    }
    full = [{"request.num_steps": n, "schedule.full_steps": n, **rest} for n in (6, 8)]
    space = merged(
        OVER_STEPS, {"families.pattern.seeds": [{**one, "request.scheduler": None} for one in full]}
    )
    changes = {"search.levels": True, "bounds": {}, "tiers": {}}
    Search(tmp_path / "run", changes, space).run()
    assert (tmp_path / "log").read_text() == "fit-levels\n" * 2
    presets = [load_preset(path) for path in sorted((tmp_path / "run/presets").glob("front-*.yaml"))]
    fitted = [preset_sampling(preset).sigmas is not None for preset in presets]
    assert any(fitted)
    assert ["search_scalars" not in preset.provenance for preset in presets] == fitted
    for preset, levels in zip(presets, fitted, strict=True):
        if levels:
            assert set(preset.policy.controller.steps) == {"F"}
            assert len(preset_sampling(preset).sigmas) == preset.model.num_steps
