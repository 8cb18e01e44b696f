"""What the README shows has to run."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks/results"


def test_the_lines_of_use_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text()
    blocks = [b for b in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if b.startswith("import xslim")]
    assert blocks, "the README shows how xslim is used"
    monkeypatch.chdir(ROOT)
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_files_it_names_exist() -> None:
    text = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing


def test_the_tables_of_results_are_those_that_were_measured() -> None:
    page = (ROOT / "docs/results.md").read_text()
    script = runpy.run_path(str(ROOT / "docs/results_tables.py"))
    shown = {model for _, model, _ in script["MARKED"].findall(page)}
    assert shown == {path.stem.removeprefix("comparison-") for path in RESULTS.glob("comparison-*.json")}
    for path in script["PAGES"]:
        assert script["render"](path.read_text()) == path.read_text(), "run `python docs/results_tables.py`"
