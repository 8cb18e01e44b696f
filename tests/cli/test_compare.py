"""`autotune compare`: statuses and messages of what is at fault, and a whole run on the formula evaluator."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.support import ROOT, Result, ScriptedFactory, command
from tests.search.support import write_files

Autotune = Callable[..., Result]
FEW = ("--set", "compare.methods=[fora]", "--set", "compare.points=2", "--set", "compare.cases=4")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The formula's experiment with the shipped recipes beside it."""
    path = write_files(tmp_path)
    (tmp_path / "methods").symlink_to(ROOT / "experiments" / "methods")
    return path


@pytest.fixture
def formula(monkeypatch: pytest.MonkeyPatch) -> None:
    import autotune.search.run as run

    monkeypatch.setattr(run, "evaluator_spec", lambda *_: ScriptedFactory())


def run_here(*arguments: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Result:
    """The command in this process, with whatever is patched."""
    from autotune.cli.main import main

    monkeypatch.setattr(sys, "argv", ["autotune", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return Result(int(ended.value.code or 0), out, err)


@pytest.mark.usefixtures("formula")
def test_one_command_searches_compares_and_reports(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    arguments = ("compare", str(files), "--out", str(out), *FEW)
    first = run_here(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert first.status == 0, first.err
    assert "no finished search in the folder: it runs first" in first.err
    assert "autotune" in first.out
    assert "fewer-steps" in first.out
    data = json.loads((out / "comparison.json").read_text())
    assert {row["method"] for row in data["rows"]} == {"autotune", "fewer-steps", "fora"}
    assert "fora" in (out / "report.html").read_text()
    again = run_here(*arguments, capsys=capsys, monkeypatch=monkeypatch)
    assert again.status == 2
    assert "holds a comparison already; go on with --resume" in again.one_line()
    words = [word.replace("fora", "taylorseer") for word in arguments]
    more = run_here(*words, "--resume", "--json", capsys=capsys, monkeypatch=monkeypatch)
    assert more.status == 0
    found = json.loads(more.out)
    assert [row for row in found["rows"] if row["method"] != "taylorseer"] == data["rows"]
    assert "compare.methods=[taylorseer,fewer-steps,fora]" in found["command"].replace("autotune,", "")

    rows, other = out / "comparison.json", tmp_path / "other"
    words = [
        "compare",
        str(files),
        "--out",
        str(other),
        *FEW,
        "--set",
        "compare.rounds=0",
        "--rows",
        str(rows),
    ]
    words = [word.replace("fora", "lemica") for word in words]
    grown = run_here(*words, capsys=capsys, monkeypatch=monkeypatch)
    assert grown.status == 0, grown.err
    assert "it runs first" not in grown.err, "our presets are taken over"
    data = json.loads((other / "comparison.json").read_text())
    assert [row for row in data["rows"] if row["method"] != "lemica"] == found["rows"]
    assert {row["speedup"] for row in data["rows"] if row["method"] == "lemica"} == {None}
    assert f"--rows {rows}" in data["command"]
    assert (other / "comparison.png").stat().st_size > 10_000
    assert f"plot: {other / 'comparison.png'}" in grown.out
    table = grown.out[: grown.out.index("comparison: ")]
    for target in (str(other), str(other / "comparison.json")):
        assert command("show", target).out == table
    (tmp_path / "partial.json").write_text(json.dumps({**data, "partial": True}))
    assert command("show", str(tmp_path / "partial.json")).out.startswith(
        f"not finished: {len(data['rows'])} rows so far; go on with: autotune compare"
    )
    assert command("show", str(out / "summary.json")).out == command("show", str(out)).out
    told = command("report", str(other)).one_line()
    assert "holds a comparison without its search, which `autotune show` prints" in told
    all_anew = [word for word in words if not word.startswith("compare.methods")]
    del all_anew[all_anew.index("--set")]
    unnamed = run_here(*all_anew, "--resume", capsys=capsys, monkeypatch=monkeypatch)
    assert unnamed.status == 2
    assert "compare.methods: null measures all methods, so that no rows are taken over" in unnamed.one_line()
    changed = [*words, "--resume", "--set", "cases.batch=1"]
    refused = run_here(*changed, capsys=capsys, monkeypatch=monkeypatch)
    assert refused.status == 2
    assert "--rows: holds rows of something else: request.batch was" in refused.one_line()


@pytest.mark.usefixtures("formula")
def test_without_a_preset_there_is_nothing_to_compare(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("compare", str(files), "--out", str(tmp_path / "run"), *FEW, "--set", "bounds.psnr_p5.min=90")
    for _ in range(2):  # the search is run first; then it is there
        found = run_here(*words, capsys=capsys, monkeypatch=monkeypatch)
        assert found.status == 2
        assert "found no preset that holds its bounds" in found.err


def test_two_searches_take_no_options(tmp_path: Path) -> None:
    result = command("compare", str(tmp_path), str(tmp_path), "--resume")
    assert result.status == 2
    assert "two searches are compared as they are; leave --resume out" in result.one_line()
    experiment = command("compare", str(ROOT / "experiments/dit-digits.yaml"), str(tmp_path))
    assert experiment.status == 2
    assert "is no folder of a search; give two of them, or an experiment alone" in experiment.one_line()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--set", "compare.methods=[teacach]"), "compare.methods: got 'teacach'; did you mean 'teacache'?"),
        (
            (
                "--set",
                f"model.path={ROOT}/experiments/models/dit-digits",
                "--set",
                "compare.methods=[teacache]",
            ),
            "compare.methods: got 'teacache', which is for flux, hunyuanvideo; the model is a dit",
        ),
        (("--set", "compare.points=0"), "compare.points: got 0"),
        (("--set", "compare.cases=many"), "compare.cases: got 'many'"),
        (("--set", "compare.seed=0"), "compare.seed: got 0, which is cases.seed"),
    ],
)
def test_input_at_fault_is_one_line(files: Path, words: tuple[str, ...], says: str) -> None:
    result = command("compare", str(files), "--out", str(files.parent / "run"), *words)
    assert result.status == 2
    assert says in result.one_line()
    assert not (files.parent / "run").exists(), "nothing was started"


def test_a_folder_without_recipes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autotune.compare.methods import methods_folders
    from xslim.errors import ConfigError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="no folder of recipes"):
        methods_folders(tmp_path / "experiment.yaml")


def test_one_folder_alone_cannot_be_compared(tmp_path: Path) -> None:
    result = command("compare", str(tmp_path))
    assert result.status == 2
    assert "give an experiment YAML, or the folders of two finished searches" in result.one_line()
