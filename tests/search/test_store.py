"""The run folder: its lock, its results, and what it is tied to."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.search.experiment import Experiment
from autotune.search.store import RunFolder
from autotune.search.trial_row import TrialRow
from tests.search.support import EXPERIMENT, SPACE, merged
from xslim.errors import ConfigError

HOLD = """
import sys, time
from pathlib import Path
from autotune.search.store import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.acquire()
print("held", flush=True)
time.sleep(60)
"""
ROW = TrialRow(3, "pattern", {"a": [1, None]}, {"controller": {}}, {"psnr": 31.25}, "F.", "ab", None, 0.5)


def experiment(**changes: object) -> Experiment:
    return Experiment.parse(merged(EXPERIMENT, {key.replace("__", "."): v for key, v in changes.items()}))


def test_one_search_at_a_time(tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path), RunFolder(tmp_path)
    first.acquire()
    with pytest.raises(ConfigError, match="a running search writes here"):
        second.acquire()
    first.release()
    second.acquire()
    second.release()
    second.release()


def test_a_killed_driver_leaves_no_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        folder = RunFolder(tmp_path)
        with pytest.raises(ConfigError, match="a running search writes here"):
            folder.acquire()
        holder.send_signal(signal.SIGKILL)
    assert holder.returncode == -signal.SIGKILL
    folder.acquire()
    folder.release()


def test_a_full_disk_is_told_before_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    folder = RunFolder(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
        with pytest.raises(ConfigError, match=r"1 MiB free, at least \d+ are needed"):
            folder.acquire()
    again = RunFolder(tmp_path)  # the refused one holds nothing
    again.acquire()
    again.release()


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=r"cannot write.*choose another --out"):
            RunFolder(path).acquire()


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.rows() == []
    rows = [ROW, replace(ROW, trial=4, duplicate_of=3)]
    for row in rows:
        folder.append(row)
    assert RunFolder(tmp_path).rows() == rows


def test_a_row_without_a_sampling_is_one_of_the_first_version(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.append(ROW)
    folder.append(replace(ROW, trial=4, sampling={"num_steps": 6}))
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert [line["version"] for line in lines] == [1, 2]
    assert ["sampling" in json.loads(line["row"]) for line in lines] == [False, True]
    assert [found.sampling for found in folder.rows()] == [{}, {"num_steps": 6}]


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_torn_line_costs_one_row_and_no_later_one(tmp_path: Path, keep: float) -> None:
    folder, results = RunFolder(tmp_path), tmp_path / "results.jsonl"
    folder.append(ROW)
    whole = results.read_bytes()
    folder.append(replace(ROW, trial=4))
    line = results.read_bytes()[len(whole) :]
    results.write_bytes(whole + line[: int(len(line) * keep)])
    assert folder.rows() == [ROW]
    folder.append(replace(ROW, trial=5))
    assert [row.trial for row in folder.rows()] == [3, 5]


@pytest.mark.parametrize("line", [b"null", b"[]", b'{"row": 3, "sha256": ""}', b'{"row": "{}"}', b"\xff\xfe"])
def test_lines_that_are_no_rows_are_left_out(tmp_path: Path, line: bytes) -> None:
    folder = RunFolder(tmp_path)
    folder.append(ROW)
    with (tmp_path / "results.jsonl").open("ab") as file:
        file.write(line + b"\n")
    folder.append(replace(ROW, trial=4))
    assert [row.trial for row in folder.rows()] == [3, 4]


def test_a_changed_row_is_left_out(tmp_path: Path) -> None:
    folder, results = RunFolder(tmp_path), tmp_path / "results.jsonl"
    folder.append(ROW)
    results.write_text(results.read_text().replace("31.25", "41.25"))
    assert folder.rows() == []


def test_a_folder_is_tied_to_its_experiment(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(experiment(), SPACE, resume=True)
    with pytest.raises(ConfigError, match="holds a search already; go on with --resume"):
        folder.claim(experiment(), SPACE, resume=False)
    folder.claim(experiment(), SPACE, resume=True)
    for changed in (
        experiment(name="other"),
        experiment(model__num_steps=7),
        experiment(cases__seed=1),
        experiment(search__seed=1),
        experiment(objectives=["latency", "lpips"]),
        experiment(bounds={}),
    ):
        with pytest.raises(ConfigError, match=r"another experiment.*choose another --out"):
            folder.claim(changed, SPACE, resume=True)
    with pytest.raises(ConfigError, match="another experiment"):
        folder.claim(experiment(), merged(SPACE, {"families.online.seeds": []}), resume=True)


def test_how_long_and_where_may_change_on_resume(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.claim(experiment(), SPACE, resume=False)
    changed = experiment(
        search__trials=99,
        search__max_seconds=5.0,
        search__certify=2,
        executor__kind="ray",
        tracking__kind="mlflow",
    )
    folder.claim(changed, SPACE, resume=True)
    assert Experiment.load(tmp_path / "experiment.yaml") == changed


def test_files_are_written_whole(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.write("a.json", "one").read_text() == "one"
    assert folder.write("a.json", "two").read_text() == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
