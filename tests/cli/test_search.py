"""`autotune search` on the formula evaluator: statuses, messages, outputs, interruptions."""

from __future__ import annotations

import json
import os
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import xslim
from autotune.search.store import RunFolder
from tests.cli.conftest import Finished
from tests.cli.support import ROOT, Result, ScriptedFactory, command, scripted
from tests.search.support import Search, write_files
from xslim.policy.policy import Policy

Autotune = Callable[..., Result]

# the contract of summary.json (schema version 1); keys may be added here, never renamed
SUMMARY = {
    "schema_version": int,
    "experiment": str,
    "seed": int,
    "objectives": list,
    "nets": dict,
    "metric_versions": dict,
    "baseline": dict,
    "trials": dict,
    "images_generated": int,
    "wall_s": float,
    "hypervolume": float,
    "front": list,
    "tiers": dict,
    "dropped": list,
    "environment": dict,
    "warnings": list,
    "references": dict,
    "screening": dict,
    "nearest": type(None),
}
BASELINE = {"latency_s", "metrics", "two_uncached", "a_a_floor", "batch"}
TRIALS = {"complete", "pruned", "failed", "deduplicated"}
MEMBER = {
    "preset",
    "speedup",
    "compute_fraction",
    "metrics",
    "holdout",
    "actions",
    "sampling",
    "memory",
    "trial",
}
QUALITY = {"lpips", "psnr", "ssim", "fid", "kid", "lpips_p95", "psnr_p5", "ssim_p5"}
HOLDOUT = {*QUALITY, "speedup", "latency", "compute_fraction"}


def test_a_search_from_start_to_presets(finished: Finished) -> None:
    assert finished.result.status == 0
    out = finished.out
    summary = json.loads((out / "summary.json").read_text())
    assert {key: type(value) for key, value in summary.items()} == SUMMARY
    assert set(summary["baseline"]) == BASELINE
    assert set(summary["trials"]) == TRIALS
    assert (summary["experiment"], summary["seed"], summary["schema_version"]) == ("formula", 0, 1)
    front = summary["front"]
    assert front
    for member in [*front, *summary["tiers"].values()]:
        assert set(member) == MEMBER
        assert set(member["metrics"]) == QUALITY
        assert set(member["holdout"]) == HOLDOUT
        for name in ("lpips", "psnr", "ssim", "lpips_p95", "psnr_p5", "ssim_p5", "speedup", "latency"):
            low, high = member["holdout"][name]["ci95"]
            assert low <= member["holdout"][name]["value"] <= high
    names = [f"presets/front-{i:02d}.yaml" for i in range(len(front))]
    assert [member["preset"] for member in front] == names
    assert {path.name for path in out.iterdir()} >= {"study.db", "pareto.png", "presets", "experiment.yaml"}


def test_the_first_preset_is_the_fastest_and_carries_its_evidence(finished: Finished) -> None:
    out = finished.out
    summary = json.loads((out / "summary.json").read_text())
    speeds = [member["speedup"] for member in summary["front"]]
    assert speeds == sorted(speeds, reverse=True)
    psnr = [member["holdout"]["psnr"]["value"] for member in summary["front"]]
    assert psnr == sorted(psnr), "on a front the slower is the better"
    for member in [*summary["front"], *summary["tiers"].values()]:
        preset = xslim.load_preset(out / member["preset"])
        assert preset.name == f"formula/{Path(member['preset']).stem}"
        assert preset.quality.holdout["psnr"] == member["holdout"]["psnr"]
        assert preset.quality.holdout["cases"] == 6
        assert preset.provenance["seed"] == 0
        for name, bound in preset.quality.bounds.items():
            assert preset.quality.holdout[name]["value"] >= bound
    assert {path.stem for path in (out / "presets").iterdir()} == {
        *(Path(member["preset"]).stem for member in summary["front"]),
        *summary["tiers"],
    }
    assert summary["tiers"]["fast"]["speedup"] >= summary["tiers"]["high"]["speedup"]


def test_the_table_names_nets_and_counts(searched: Finished, autotune: Autotune) -> None:
    result = searched.result
    assert "fid_digits@6" in result.out
    assert "front-00" in result.out
    assert "14 trials" in result.out
    assert "searching: 14 trials" in result.err
    shown = autotune("show", searched.out).out.splitlines()
    notes = [line for line in shown if line.startswith("note: ")]
    assert [line for line in shown if line not in notes] == result.out.splitlines()
    assert [line for line in result.err.splitlines() if line.startswith("note: ")] == notes, "each once"
    for part in (
        "6 cases: below 100",
        "fid_digits@6: below 2000",
        "fid_digits@6: two samples of the reference (3 and 3",
    ):
        assert sum(part in line for line in notes) == 1


def test_a_finished_search_is_not_run_again(
    finished: Finished, tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    formula, out = finished.experiment, finished.out
    mark = tmp_path / "mark"
    monkeypatch.setattr("autotune.search.run.evaluator_spec", lambda *_: ScriptedFactory(mark=str(mark)))
    again = autotune("search", formula, "--out", out, "--json", "--resume")
    assert (again.status, json.loads(again.out)) == (0, json.loads((out / "summary.json").read_text()))
    assert not mark.exists()
    more = autotune("search", formula, "--out", out, "--json", "--resume", "--set", "search.trials=16")
    assert more.status == 0
    assert json.loads(more.out)["trials"]["complete"] == 16
    assert mark.exists()


def test_no_trials_certifies_the_warm_starts(formula: Path, tmp_path: Path, autotune: Autotune) -> None:
    out = tmp_path / "out"
    result = autotune("search", formula, "--out", out, "--json", "--set", "search.trials=0")
    assert result.status == 0
    summary = json.loads(result.out)
    assert summary["trials"] == dict.fromkeys(TRIALS, 0)
    assert summary["front"]
    assert len(summary["front"]) + len(summary["dropped"]) <= 12
    for member in summary["front"]:
        assert member["holdout"]["psnr_p5"]["value"] >= 5
        assert xslim.load_preset(out / member["preset"])
    assert (
        autotune("search", formula, "--out", out, "--json", "--set", "search.trials=0", "--resume").status
        == 0
    )


class Worse:
    """As the formula, but worse on held-out cases than on search cases."""

    def build(self) -> Any:
        inner = ScriptedFactory().build()
        evaluate = type(inner).evaluate

        class Evaluator(type(inner)):  # type: ignore[misc]
            def evaluate(self, policy: Policy, cases: Any, *rest: Any) -> Any:
                found = evaluate(self, policy, cases, *rest)
                if cases[0].seed >= 2**31 and "." in found.quality.actions:  # held-out
                    found.quality.rows["psnr"][:] -= 9.0
                return found

        return Evaluator(inner.num_steps)


def test_what_misses_its_bounds_is_dropped(
    formula: Path, tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.search.run.evaluator_spec", lambda *_: Worse())
    out = tmp_path / "out"
    result = autotune("search", formula, "--out", out, "--json")
    summary = json.loads(result.out)
    assert result.status == 0
    assert summary["front"]
    assert summary["dropped"]
    for dropped in summary["dropped"]:
        assert dropped["missed"].get("psnr_p5", 0) < 5
        assert dropped["missed"].get("speedup", 1) <= 1
        line = f"dropped trial {dropped['trial']}: misses its bound on held-out cases ("
        assert f"{line}{next(iter(dropped['missed']))} = " in result.err
    assert any("psnr_p5" in dropped["missed"] for dropped in summary["dropped"])
    for member in summary["front"]:
        assert member["holdout"]["psnr_p5"]["value"] >= 5

    nothing = autotune("search", formula, "--out", tmp_path / "two", "--set", "bounds.psnr_p5.min=200")
    assert nothing.status == 1
    assert "no preset holds its bounds on held-out cases; trial " in nothing.err
    assert "comes nearest with psnr_p5 " in nothing.err
    assert not list((tmp_path / "two" / "presets").glob("*"))
    assert "Traceback" not in nothing.err


def test_a_broken_run_says_what_is_kept(
    formula: Path, tmp_path: Path, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def build(self) -> Any:
            from autotune.scoring.doubles import FailingEvaluator

            return FailingEvaluator(ScriptedFactory().build(), lambda policy: True)

    monkeypatch.setattr("autotune.search.run.evaluator_spec", lambda *_: Failing())
    out = tmp_path / "out"
    result = autotune("search", formula, "--out", out)
    assert result.status == 3
    *_, hint, line = result.err.splitlines()
    assert line == "autotune: 3 trials in a row failed: RuntimeError: failing on purpose"
    assert f"is kept in {out};" in hint
    resume = hint.partition("resume with: autotune ")[2]
    monkeypatch.setattr("autotune.search.run.evaluator_spec", lambda *_: ScriptedFactory())
    assert autotune(*shlex.split(resume)).status == 0


def test_a_dry_run_runs_nothing(formula: Path, tmp_path: Path, autotune: Autotune) -> None:
    hub = ("--set", "model.path=some/model")
    result = autotune("search", formula, "--out", tmp_path / "out", "--dry-run", "--json", *hub)
    assert result.status == 0
    assert json.loads(result.out)["trials"] == 14
    assert not (tmp_path / "out").exists()
    assert "trials       14\n" in autotune("search", formula, "--dry-run", *hub).out


def test_the_folder_of_another_search_is_refused(finished: Finished, autotune: Autotune) -> None:
    formula, out = finished.experiment, finished.out
    before = (out / "summary.json").read_text()
    again = autotune("search", formula, "--out", out)
    assert again.status == 2
    assert f"{out}: holds a search already; go on with --resume" in again.one_line()
    other = autotune("search", formula, "--out", out, "--resume", "--set", "search.seed=5")
    assert other.status == 2
    assert "another experiment" in other.one_line()
    assert (out / "summary.json").read_text() == before


def test_a_folder_in_use_is_refused(formula: Path, tmp_path: Path, autotune: Autotune) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.acquire()
    result = autotune("search", formula, "--out", tmp_path / "out")
    folder.release()
    assert result.status == 2
    assert "a running search writes here" in result.one_line()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--set", "search.trails=3"], "--set: search.trails: unknown key; did you mean 'trials'"),
        (["--set", "search.trials=x"], "--set: search.trials: got 'x'"),
        (["--set", "search.trials"], "KEY=VALUE"),
        (["--set", "search.trials=!!python/name:os.system"], "not plain YAML"),
        (["--set", "model.path=./no/such folder"], "model.path: got './no/such folder', which is no folder"),
        (["--set", "model.path=tests"], "model.path: got 'tests', which has no model_index.json"),
        (["--set", "metrics.net=tests"], "metrics.net: got 'tests', which holds no model.safetensors"),
        (["--set", "search_space=gone.yaml"], "gone.yaml: cannot read"),
        (["--out", "pyproject.toml"], "pyproject.toml: cannot write"),
    ],
)
def test_input_at_fault_is_one_line(
    arguments: list[str], part: str, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    given = ["--set", "metrics.reference_stats=null", *arguments]
    result = autotune("search", "experiments/dit-digits.yaml", *given)
    assert result.status == 2
    assert part in result.one_line()


def test_a_scheduler_that_does_not_fit_is_refused_before_anything_starts(
    autotune: Autotune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    space = (ROOT / "search_spaces/dit-digits-steps.yaml").read_text()
    (tmp_path / "space.yaml").write_text(space.replace("DPMSolverMultistep", "HeunDiscrete"))
    given = ("--set", f"search_space={tmp_path / 'space.yaml'}", "--out", tmp_path / "out")
    for more in ((), ("--dry-run",)):
        result = autotune("search", "experiments/dit-digits.yaml", *given, *more)
        assert result.status == 2
        assert "request.scheduler.choices.0: got 'HeunDiscreteScheduler', which cannot" in result.one_line()
    assert not (tmp_path / "out").exists()


def test_a_missing_experiment_is_one_line(autotune: Autotune) -> None:
    result = autotune("search", "gone.yaml")
    assert result.status == 2
    assert (
        result.one_line() == "autotune: gone.yaml: cannot read: no such file or directory; check the path\n"
    )


def test_input_at_fault_in_a_process_of_its_own(tmp_path: Path) -> None:
    experiment = write_files(tmp_path / "files", {"model.path": str(tmp_path / "none")})
    result = command("search", str(experiment), "--out", str(tmp_path / "out"))
    assert result.status == 2
    assert "model.path" in result.one_line()
    assert not (tmp_path / "out").exists()


def wait_for(mark: Path, size: int) -> None:
    """Wait until an evaluator was called so often."""
    end = time.monotonic() + 60
    while not mark.exists() or mark.stat().st_size < size:
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM"),
        pytest.param(signal.SIGINT, id="SIGINT", marks=pytest.mark.slow),
    ],
)
def test_a_signal_drains_and_the_search_is_resumed(
    number: signal.Signals, formula: Path, tmp_path: Path, autotune: Autotune
) -> None:
    out, mark = tmp_path / "out", tmp_path / "mark"
    with scripted("search", str(formula), "--out", str(out), delay_s=0.2, mark=mark) as driver:
        wait_for(mark, 4)
        os.kill(driver.pid, number)
        _, errors = driver.communicate(timeout=60)
    assert driver.returncode == 75
    assert "Traceback" not in errors
    *_, last = errors.splitlines()
    resume = shlex.split(last.partition("interrupted; resume with: autotune ")[2])
    search = Search(out)
    kept = search.rows
    assert 0 < len(kept) < 14
    assert [trial.state.name for trial in search.trials if trial.state.name != "WAITING"] == [
        "COMPLETE"
    ] * len(kept), "what was in flight is finished"
    result = autotune(*resume, "--json")
    assert result.status == 0
    summary = json.loads(result.out)
    assert (summary["trials"]["complete"], summary["trials"]["failed"]) == (14, 0)
    assert search.rows[: len(kept)] == kept


def test_a_killed_driver_is_resumed(formula: Path, tmp_path: Path, autotune: Autotune) -> None:
    out, mark = tmp_path / "out", tmp_path / "mark"
    with scripted("search", str(formula), "--out", str(out), delay_s=0.2, mark=mark) as driver:
        wait_for(mark, 6)
        driver.kill()
    kept = Search(out).rows
    assert 0 < len(kept) < 14
    refused = autotune("search", formula, "--out", out)
    assert (refused.status, "--resume" in refused.one_line()) == (2, True)
    result = autotune("search", formula, "--out", out, "--resume", "--json")
    assert result.status == 0
    summary = json.loads(result.out)
    assert summary["trials"]["complete"] == 14
    assert summary["trials"]["failed"] <= 1, "at most what was in flight is lost"
    assert Search(out).rows[: len(kept)] == kept
    numbers = [row.trial for row in Search(out).rows]
    assert len(numbers) == len(set(numbers)) == 14
