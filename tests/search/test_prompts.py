"""Prompts from files, in the forms that public sets come in."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from autotune.search.experiment import Experiment, load_experiment
from autotune.search.prompts import read_prompts
from tests.search.support import EXPERIMENT, write_files
from xslim.errors import ConfigError

ROOT = Path(__file__).parents[2]
TWO = ("a red cube, on top of a blue one", 'a sign that says "NOW"')


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("plain.txt", f"# a remark\n{TWO[0]}\n  {TWO[1]} \n"),
        ("windows.txt", f"\ufeff{TWO[0]}\r\n{TWO[1]}\r\n"),
        ("no-ending", "\n".join(TWO)),
        ("drawbench.csv", f'Prompts,Category\n"{TWO[0]}",Colors\n"a sign that says ""NOW""",Text\n'),
        ("parti.tsv", f'Prompt\tCategory\tNote\n{TWO[0]}\tArts\t\n{TWO[1]}\tArts\t"open\n'),
        ("coco.csv", f'image_id, Caption \n1,"{TWO[0]}"\n2,"a sign that says ""NOW"""\n'),
        ("vbench.jsonl", "".join(json.dumps({"dimension": ["x"], "prompt_en": p}) + "\n" for p in TWO)),
        ("both.jsonl", "".join(json.dumps({"caption": "other", "prompt": p}) + "\n" for p in TWO)),
    ],
)
def test_every_form_is_read(name: str, text: str, tmp_path: Path) -> None:
    assert read_prompts(write(tmp_path, name, text)) == TWO


def test_a_quoted_prompt_may_have_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'prompt,id\n"one\ntwo",1\nthree,2\n')
    assert read_prompts(path) == ("one\ntwo", "three")


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("a.txt", "one\n\ntwo\n", "line 2: empty; write a prompt or remove the line"),
        ("a.txt", "one\n# remark\ntwo\none \n", "line 4: got the prompt of line 1 again, 'one'; remove one"),
        ("a.txt", "", "holds no prompt"),
        ("a.txt", "# only a remark\n", "holds no prompt"),
        ("a.csv", "prompt,id\none,1\n,2\n", "line 3: empty"),
        ("a.csv", "prompt,id\none,1\ntwo,2\none,3\n", "line 4: got the prompt of line 2 again"),
        (
            "a.csv",
            "text,id\none,1\n",
            "line 1: got ['text', 'id']; one must be called prompt, prompts, caption",
        ),
        ("a.csv", "", "line 1: got []"),
        ("a.tsv", "prompt\n", "holds no prompt"),
        ("a.jsonl", '{"prompt": "one"}\n{"prompt": 3}\n', "line 2: got 3; allowed is a text"),
        ("a.jsonl", '{"prompt": "one"}\n[]\n', "line 2: got '[]'; allowed is a JSON object"),
        ("a.jsonl", '{"prompt": "one"}\n{"text": "two"}\n', "line 2: got ['text']"),
        ("a.jsonl", "prompt\n", "line 1: got 'prompt'; allowed is a JSON object"),
    ],
)
def test_a_fault_is_one_line_with_its_place(name: str, text: str, part: str, tmp_path: Path) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(ConfigError) as caught:
        read_prompts(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert part in line
    assert "\n" not in line


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.txt: cannot read: no such file"):
        read_prompts(tmp_path / "none.txt")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.txt: not UTF-8"):
        read_prompts(tmp_path / "latin.txt")


def test_an_experiment_reads_its_prompts_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "prompts.txt", "one\ntwo\n")
    model = {key: value for key, value in EXPERIMENT["model"].items() if key != "prompts"}
    path = write_files(tmp_path, {"model": {**model, "prompts_file": "prompts.txt"}})
    for folder in (tmp_path, ROOT):
        monkeypatch.chdir(folder)
        loaded = load_experiment(path)
        assert (loaded.model.prompts, loaded.model.prompts_file) == (("one", "two"), None)
        assert Experiment.parse(loaded.to_data()) == loaded
    other = write(tmp_path, "other.txt", "three\n")
    assert load_experiment(path, [f"model.prompts_file={other}"]).model.prompts == ("three",)
    with pytest.raises(ConfigError, match=r"^--set: model\.prompts_file: got 'absent\.txt', which is no"):
        load_experiment(path, ["model.prompts_file=absent.txt"])
    (tmp_path / "prompts.txt").unlink()
    with pytest.raises(
        ConfigError, match=r"experiment\.yaml: model\.prompts_file: got 'prompts\.txt'"
    ) as caught:
        load_experiment(path)
    assert caught.value.source == str(path)


@pytest.mark.parametrize("name", ["images", "videos", "imagenet-labels"])
def test_the_shipped_sets_are_whole(name: str) -> None:
    prompts = read_prompts(ROOT / "experiments" / "prompts" / f"{name}.txt")
    assert len(prompts) >= {"images": 64, "videos": 32, "imagenet-labels": 1000}[name]
    if name == "imagenet-labels":
        assert sorted(map(int, prompts)) == list(range(1000))
