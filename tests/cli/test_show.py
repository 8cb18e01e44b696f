"""`show`, `report`, `export`, and the command line as a whole."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.search.store import RunFolder
from tests.cli.conftest import Finished
from tests.cli.support import Result
from tests.golden.test_golden import preset
from xslim import save_preset
from xslim.policy.preset import shipped_presets

Autotune = Callable[..., Result]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_preset(preset(), tmp_path / "preset.yaml")
    return tmp_path / "preset.yaml"


def test_a_preset_is_shown(file: Path, autotune: Autotune) -> None:
    result = autotune("show", file)
    assert (result.status, result.err) == (0, "")
    for part in ("golden/preset", "dit DiTTransformer2DModel, 3 steps", "dual-threshold", "lpips"):
        assert part in result.out


def test_a_preset_as_json(file: Path, autotune: Autotune) -> None:
    result = autotune("show", file, "--json")
    assert (result.status, result.err) == (0, "")
    assert json.loads(result.out) == preset().to_data()


@pytest.mark.parametrize("name", shipped_presets())
def test_a_shipped_preset_is_shown(name: str, autotune: Autotune) -> None:
    result = autotune("show", name)
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith(f"{name}\n")


def test_what_is_not_there_is_one_line(tmp_path: Path, autotune: Autotune) -> None:
    for target, part in (
        ("dit-digits/no-such", "no file and no shipped preset"),
        (tmp_path / "gone.yaml", "cannot read"),
        (tmp_path, "holds no summary.json"),
    ):
        result = autotune("show", target)
        assert result.status == 2
        assert part in result.one_line()
    assert autotune("report", tmp_path).status == 2


@pytest.mark.parametrize("text", ["", "[1]", "{}", "{", '{"schema_version": 2, "front": []}'])
def test_a_summary_at_fault_is_one_line(text: str, tmp_path: Path, autotune: Autotune) -> None:
    (tmp_path / "summary.json").write_text(text)
    for verb in ("show", "report"):
        result = autotune(verb, tmp_path)
        assert result.status == 2
        assert f"{tmp_path}/summary.json: " in result.one_line()


def test_a_report_draws_the_search_again(finished: Finished, autotune: Autotune) -> None:
    out = finished.out
    table = autotune("show", out).out
    shown = autotune("show", out, "--json")
    assert json.loads(shown.out) == json.loads((out / "summary.json").read_text())
    (out / "pareto.png").unlink()
    result = autotune("report", out)
    assert result.status == 0
    assert result.out == f"{table}plot: {out / 'pareto.png'}\nreport: {out / 'report.html'}\n"
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    facts = json.loads(autotune("report", out, "--json").out)
    assert (facts["report"], facts["plots"]) == (str(out / "report.html"), [str(out / "pareto.png")])
    assert (facts["partial"], facts["trials"]) == (False, 14)
    assert (
        f"autotune search {finished.experiment} --out {out} --set search.seed=0\n"
        in (out / "report.html").read_text()
    )


def test_a_report_of_an_empty_front_says_so(formula: Path, tmp_path: Path, autotune: Autotune) -> None:
    out = tmp_path / "out"
    impossible = ("--set", "bounds={psnr_p5: {min: 500}}", "--set", "tiers={}")
    assert autotune("search", formula, "--out", out, *impossible).status == 1
    text = (out / "report.html").read_text()
    assert "Empty front:" in text
    assert "comes nearest with psnr_p5" in text
    result = autotune("report", out)
    assert result.status == 2
    assert result.err.count("\n") == 1
    assert f"{out}: no preset holds its bounds on held-out cases; trial " in result.err
    assert f"its trials are in {out / 'report.html'}" in result.err


def test_a_failing_report_does_not_fail_a_search(
    formula: Path,
    tmp_path: Path,
    autotune: Autotune,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no room for a page\nand more")

    monkeypatch.setattr("autotune.report.page.write_page", broken)
    out = tmp_path / "out"
    assert autotune("search", formula, "--out", out).status == 0
    assert not (out / "report.html").exists()
    assert [r.getMessage() for r in caplog.records if "report" in r.getMessage()] == [
        "no report.html: RuntimeError: no room for a page"
    ]


def test_a_report_for_mlflow_needs_a_tracked_search(
    finished: Finished, autotune: Autotune, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    out = finished.out
    result = autotune("report", out, "--mlflow")
    assert result.status == 2
    assert f"{out}: --mlflow: holds no mlflow.json, so the search was not tracked" in result.one_line()
    (out / "mlflow.json").write_text('{"search": "ab", "sent": {}}')
    result = autotune("report", out, "--mlflow")
    assert result.status == 2
    assert "holds no run of this search; set MLFLOW_TRACKING_URI" in result.one_line()


def test_export_names_what_works(tmp_path: Path, autotune: Autotune) -> None:
    result = autotune("export", tmp_path, "--to", "sglang")
    assert result.status == 2
    assert "--to: got 'sglang'; no exporter exists yet" in result.one_line()
    assert "xslim.load_preset" in result.err


@pytest.mark.parametrize("arguments", [["serch"], ["search"], ["show", "a", "--jsn"], ["export", "x"]])
def test_a_wrong_command_line_is_an_input_at_fault(arguments: list[str], autotune: Autotune) -> None:
    result = autotune(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "Traceback" not in result.err


def test_help_names_every_verb(autotune: Autotune) -> None:
    result = autotune("--help")
    assert result.status == 0
    for verb in ("search", "profile", "show", "report", "validate", "export"):
        assert verb in result.out
        assert autotune(verb, "--help").status == 0


@pytest.fixture
def stopped(finished: Finished) -> Path:
    """A search whose end is missing, as after a kill."""
    (finished.out / "summary.json").unlink()
    return finished.out


def test_an_interrupted_search_says_how_to_go_on(
    finished: Finished, stopped: Path, autotune: Autotune
) -> None:
    result = autotune("show", stopped)
    command = f"autotune search {finished.experiment} --out {stopped} --resume --set search.seed=0"
    assert (result.status, result.err) == (0, "")
    assert result.out == (
        f"{stopped}: the search is interrupted, 14 of 14 trials are in; resume it with: {command}\n"
    )
    report = autotune("report", stopped)
    assert (report.status, report.err) == (0, "")
    assert report.out == f"{result.out}report: {stopped / 'report.html'}\n"
    assert "Partial: this search is not finished." in (stopped / "report.html").read_text()
    data = json.loads(autotune("show", stopped, "--json").out)
    assert data == {"state": "interrupted", "trials": 14, "of": 14, "resume": command}
    assert autotune(*shlex.split(command)[1:]).status == 0
    assert "presets on held-out cases" in autotune("show", stopped).out


def test_what_an_interrupted_search_was_started_with_may_be_unknown(
    stopped: Path, autotune: Autotune
) -> None:
    for text in ("", "{}", "[]", '{"experiment": 1}'):
        (stopped / "started.json").write_text(text)
        assert f"autotune search EXPERIMENT.yaml --out {stopped} --resume\n" in autotune("show", stopped).out


def test_a_running_search_is_told(stopped: Path, autotune: Autotune) -> None:
    (stopped / "results.jsonl").write_text("")
    holder = RunFolder(stopped)
    holder.acquire()
    try:
        result = autotune("show", stopped)
        data = json.loads(autotune("show", stopped, "--json").out)
    finally:
        holder.release()
    assert result.status == 0
    assert "the search is running, 0 of 14 trials are in; show it again when it has ended" in result.out
    status = data.pop("status")
    assert data == {"state": "running", "trials": 0, "of": 14}
    assert (status["experiment"], status["wanted"]) == ("formula", 14)
    assert "hypervolume" in result.out
    assert json.loads(autotune("show", stopped, "--json").out)["state"] == "interrupted"
    report = autotune("report", stopped)
    assert report.status == 2
    assert "0 of 14 trials are in; resume it with" in report.one_line()
    assert "there is nothing to report yet" in report.err
