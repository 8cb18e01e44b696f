"""`autotune certify`: statuses, the table, the certificate, fresh cases, going on, what is refused."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xslim
from autotune.scoring.case import cases_sha256, make_cases
from autotune.scoring.doubles import FormulaEvaluator
from autotune.search.certificate import plan_certification
from tests.cli.support import ROOT, Result, scripted
from tests.golden.test_golden import preset as golden_preset
from tests.search.support import STEPS
from xslim.policy.policy import Policy
from xslim.policy.preset import ModelSignature, Preset, Quality

Autotune = Callable[..., Result]
Make = Callable[..., Path]
PROMPTS = [0, 1, 2]
PATTERN = "F.." * (STEPS // 3)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write a preset that the formula evaluator can measure; its psnr_p5 is about 20 dB."""

    def write(bounds: dict[str, float] | None = None, **changes: Any) -> Path:
        experiment = {
            "name": "formula",
            "model": {"path": "somewhere/local/model", "prompts": PROMPTS},
            "search_space": "space.yaml",
            "cases": {"holdout": 6, "batch": 2},
            "metrics": {"net": "net"},
        }
        fields: dict[str, Any] = {
            "name": "formula/balanced",
            "model": ModelSignature(
                family="formula", transformer="Formula", num_steps=STEPS, guidance_scale=2.5
            ),
            "policy": Policy.from_pattern(PATTERN),
            "quality": Quality(
                bounds={"psnr_p5": 10.0, "lpips_p95": 0.9} if bounds is None else bounds,
                holdout={"psnr_p5": {"value": 21.0}, "cases_seed": 4},
            ),
            "provenance": {"experiment": experiment},
        }
        path = tmp_path / "preset.yaml"
        xslim.save_preset(Preset(**{**fields, **changes}), path)
        return path

    return write


def test_a_preset_that_holds(formula: Path, make: Make, tmp_path: Path, autotune: Autotune) -> None:
    result = autotune("certify", make(), "--out", tmp_path / "out")
    assert result.status == 0
    lines = result.out.splitlines()
    assert lines[0] == "formula/balanced on 6 fresh cases (seed 5), formula"
    for name, wanted, before in (
        ("speedup", ">= 1", ""),
        ("psnr_p5", ">= 10", "21"),
        ("lpips_p95", "<= 0.9", ""),
    ):
        (line,) = (line for line in lines if line.split()[:1] == [name])
        assert f" {wanted} " in line
        assert before in line
        assert line.endswith("held")
    assert "worst psnr" in result.out
    assert "fid_digits@6" in result.out
    notes = [line for line in result.err.splitlines() if line.startswith("note: ")]
    assert len(notes) == len(set(notes)) == 5
    assert "missed" not in result.err


def test_the_certificate_says_what_was_measured(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune
) -> None:
    result = autotune("certify", make(), "--out", tmp_path / "out", "--set", "cases.holdout=40", "--json")
    data = json.loads(result.out)
    assert data == json.loads((tmp_path / "out" / "certificate.json").read_text())
    assert data["held"] is True
    assert [check["name"] for check in data["bounds"]] == ["speedup", "psnr_p5", "lpips_p95"]
    for check in data["bounds"]:
        low, high = check["ci95"]
        assert low <= check["value"] <= high
        assert check["held"]
        assert check["sure"]
    assert data["bounds"][1]["wanted"] == {"min": 10.0}
    assert data["bounds"][1]["evidence"] == 21.0
    assert data["bounds"][2]["wanted"] == {"max": 0.9}
    cases = make_cases(PROMPTS, 0, 40, 5)[1]
    assert data["holdout"]["cases_sha256"] == cases_sha256(cases)
    assert (data["holdout"]["cases"], data["holdout"]["cases_seed"]) == (40, 5)
    assert data["two_uncached"]["fid"]["n"] == 20
    assert data["holdout"]["fid"]["two_uncached"] == data["two_uncached"]["fid"]
    worst = data["holdout"]["psnr"]["worst"]
    assert (worst["prompt"], worst["seed"]) in {(case.prompt, case.seed) for case in cases}


def test_a_bound_that_is_missed(formula: Path, make: Make, tmp_path: Path, autotune: Autotune) -> None:
    path = make({"psnr_p5": 90.0, "lpips": 0.9})
    result = autotune("certify", path, "--out", tmp_path / "out", "--write")
    assert result.status == 1
    assert "MISSED" in result.out
    (line,) = (line for line in result.err.splitlines() if line.startswith("missed: "))
    assert line.startswith("missed: psnr_p5 = ")
    assert line.endswith("wanted >= 90")
    assert xslim.load_preset(path).quality.certified == {}
    assert "is empty now" in result.err


def test_a_preset_that_is_no_faster_misses(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune
) -> None:
    path = make({}, policy=Policy.from_pattern("F" * STEPS))
    result = autotune("certify", path, "--out", tmp_path / "out", "--set", "cases.holdout=40")
    assert result.status in (0, 1)  # 1.00x exactly
    slow = make({"speedup": 2.0}, policy=Policy.from_pattern("F" * STEPS))
    result = autotune("certify", slow, "--out", tmp_path / "out", "--set", "cases.holdout=40")
    assert result.status == 1
    assert "missed: speedup = 1, wanted >= 2" in result.err


def test_the_certificate_is_kept_in_the_preset_and_the_next_draws_other_cases(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune
) -> None:
    path = make()
    before = xslim.load_preset(path)
    assert autotune("certify", path, "--out", tmp_path / "out", "--write").status == 0
    after = xslim.load_preset(path)
    assert after.model_copy(update={"quality": before.quality}) == before
    certified = after.quality.certified
    assert after.quality.holdout == before.quality.holdout
    assert certified["cases_seed"] == 5
    assert certified["psnr_p5"]["value"] > 10
    assert certified["bounds"]["psnr_p5"] == {"min": 10.0}
    assert certified["device"] == "formula"
    assert f"certified {certified['date']}, 6 fresh cases on formula" in autotune("show", path).out
    again = autotune("certify", path, "--out", tmp_path / "out", "--json")
    assert json.loads(again.out)["holdout"]["cases_seed"] == 6


def test_a_search_exports_what_certifying_needs(formula: Path, tmp_path: Path, autotune: Autotune) -> None:
    out = tmp_path / "run"
    summary = json.loads(autotune("search", formula, "--out", out, "--json").out)
    path = out / summary["tiers"]["fast"]["preset"]
    result = autotune("certify", path, "--out", tmp_path / "out", "--json")
    assert result.status == 0
    data = json.loads(result.out)
    assert {check["name"]: check["evidence"] for check in data["bounds"]}["psnr_p5"] == pytest.approx(
        summary["tiers"]["fast"]["holdout"]["psnr_p5"]["value"]
    )
    assert data["holdout"]["cases_seed"] == 1
    assert data["model"] == "somewhere/local/model"
    moved = autotune("certify", path, "--out", tmp_path / "out", "--model", "other/model", "--json")
    assert json.loads(moved.out)["model"] == "other/model"


def test_an_experiment_may_be_given(make: Make, formula: Path, tmp_path: Path, autotune: Autotune) -> None:
    path = make(provenance={"study": "no-such-study"})
    assert "provenance.experiment: missing" in autotune("certify", path).one_line()
    result = autotune("certify", path, "--experiment", formula, "--out", tmp_path / "out", "--json")
    assert json.loads(result.out)["holdout"]["cases"] == 6


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("no-such/preset",), "no file and no shipped preset"),
        (("dit-digits/balanced", "--write"), "--write: got 'dit-digits/balanced', which is shipped"),
        (("dit-digits/balanced", "--set", "cases.seed=0"), "cases.seed: got 0, which drew the preset's own"),
        (("dit-digits/balanced", "--set", "cases.holdout=1"), "cases.holdout: got 1"),
        (("dit-digits/balanced", "--model", "./nowhere"), "model.path: got './nowhere', which is no folder"),
        (("dit-digits/balanced", "--set", "model.prompts=[]"), "model.prompts"),
        (("dit-digits/balanced", "--set", "model.prompts=[1, 2, 1]"), "model.prompts.2"),
        (
            ("dit-digits/balanced", "--set", "cases.repeat=false"),
            "got 16 search and 64 held-out cases, 80 together, of 10 prompts",
        ),
        (("dit-digits/balanced", "--experiment", "gone.yaml"), "gone.yaml: cannot read"),
    ],
)
def test_bad_input_is_one_line(
    arguments: tuple[str, ...], part: str, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    result = autotune("certify", *arguments)
    assert result.status == 2
    assert part in result.one_line()


def test_a_bound_on_nothing_known_is_refused(make: Make, formula: Path, autotune: Autotune) -> None:
    line = autotune("certify", make({"psnr_p6": 3.0})).one_line()
    assert "quality.bounds.psnr_p6: unknown scalar; did you mean 'psnr_p5'?" in line


def test_a_preset_of_another_model_is_refused_before_anything_is_drawn(
    tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the trained model itself: the golden preset is of a DiT with another config."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("autotune.cli.certify.threads_each", lambda workers: 1)
    path = tmp_path / "preset.yaml"
    experiment = {
        "name": "digits",
        "model": {"path": "experiments/models/dit-digits", "prompts": [3, 7]},
        "search_space": "search_spaces/dit-digits.yaml",
        "metrics": {"net": "experiments/models/digits-classifier"},
    }
    other = golden_preset().model_copy(update={"provenance": {"experiment": experiment}})
    xslim.save_preset(other, path)
    result = autotune("certify", path, "--out", tmp_path / "out", "--set", "cases.holdout=2")
    assert result.status == 2
    (line,) = (line for line in result.err.splitlines() if line.startswith("autotune: "))
    assert line.startswith(f"autotune: {path}: ")
    assert "the preset was made for" in line
    assert not list((tmp_path / "out" / "references").glob("*.safetensors"))


def test_a_broken_run_says_what_is_kept(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("autotune.scoring.doubles.FormulaEvaluator.evaluate", broken)
    result = autotune("certify", make(), "--out", tmp_path / "out")
    assert result.status == 3
    assert "autotune: the measurement failed: RuntimeError: the device is gone" in result.err
    assert f"what was measured is kept in {tmp_path / 'out'}" in result.err
    assert not (tmp_path / "out" / "certificate.json").exists()


def test_a_signal_keeps_what_is_measured(
    make: Make, formula: Path, tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, out = tmp_path / "mark", tmp_path / "out"
    arguments = ("certify", str(make()), "--out", str(out), "--set", "cases.holdout=160")
    process = scripted(*arguments, delay_s=0.2, mark=mark)
    end = time.monotonic() + 60
    while not mark.exists() and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "interrupted; the same command goes on" in err
    kept = len(list((out / "certification").iterdir()))
    assert 1 <= kept < 11
    assert not (out / "certificate.json").exists()
    calls = counted(monkeypatch)
    assert autotune(*arguments).status == 0
    assert len(calls) == 11 - kept + 1, "no part was measured again; the uncached model was"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for every task that a formula evaluator is given from now on."""
    calls: list[int] = []
    evaluate = FormulaEvaluator.evaluate

    def watched(self: FormulaEvaluator, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(FormulaEvaluator, "evaluate", watched)
    return calls


def test_a_second_certification_measures_anew(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("certify", make(), "--out", tmp_path / "out")
    assert autotune(*arguments).status == 0
    assert not (tmp_path / "out" / "certification").exists()
    calls = counted(monkeypatch)
    assert autotune(*arguments).status == 0
    assert len(calls) == 1 + 1  # one part, and the uncached model


def test_another_request_than_the_presets_is_refused(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune
) -> None:
    arguments = ("certify", make(), "--out", tmp_path / "out", "--set", "model.guidance_scale=7.0")
    result = autotune(*arguments)
    assert result.status == 2
    assert "model.guidance_scale: got 7.0; the preset was made for 2.5" in result.err


def test_a_preset_with_steps_of_its_own_is_measured_against_the_reference(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled: list[Any] = []
    evaluate = FormulaEvaluator.evaluate

    def watched(self: FormulaEvaluator, *args: Any, **kwargs: Any) -> Any:
        sampled.append(args[4].num_steps if len(args) > 4 else None)
        return evaluate(self, *args, **kwargs)

    monkeypatch.setattr(FormulaEvaluator, "evaluate", watched)
    recipe = xslim.load_preset(make()).provenance["experiment"]
    recipe = {**recipe, "model": {**recipe["model"], "num_steps": STEPS}}
    half = ModelSignature(family="formula", transformer="Formula", num_steps=STEPS // 2)
    told = {"experiment": recipe, "sampling": {"num_steps": STEPS // 2}}
    path = make(model=half, policy=Policy.from_pattern("F." * (STEPS // 4)), provenance=told)
    result = autotune("certify", path, "--out", tmp_path / "out", "--json")
    assert result.status == 0
    assert sampled == [STEPS // 2, None], "the preset, and the uncached reference"
    assert json.loads(result.out)["holdout"]["compute_fraction"]["value"] == pytest.approx(1.02 / 4)
    assert "sampling  6 steps, unlike the reference" in autotune("show", path).out
    easier = autotune("certify", path, "--out", tmp_path / "out3", "--set", f"model.num_steps={STEPS // 2}")
    assert easier.status == 2
    assert f"the preset was measured against {STEPS} uncached steps; leave it out" in easier.one_line()
    wrong = make(model=half, provenance={**told, "sampling": {"num_steps": 1}})
    result = autotune("certify", wrong, "--out", tmp_path / "out2")
    assert result.status == 2
    assert "provenance.sampling.num_steps: got 1" in result.one_line()


def test_a_bound_is_judged_as_it_was_set(
    formula: Path, make: Make, tmp_path: Path, autotune: Autotune
) -> None:
    experiment = xslim.load_preset(make()).provenance["experiment"]
    told = {"experiment": experiment, "nets": {"lpips": "lpips_alex"}}
    result = autotune("certify", make(provenance=told), "--out", tmp_path / "out")
    assert result.status == 2
    assert "quality.bounds.lpips_p95: was set by lpips_alex and would be judged by lpips_digits" in result.err
    told = {"experiment": experiment, "metric_versions": {"lpips": 1}}
    result = autotune("certify", make(provenance=told), "--out", tmp_path / "out")
    assert result.status == 2
    assert "was set by version 1 of lpips" in result.err


def test_no_bound_allows_a_slower_preset(make: Make) -> None:
    plan = plan_certification(str(make({"speedup": 0.5})))
    assert plan.bounds["speedup"].min == 1.0
