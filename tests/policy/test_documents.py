"""Policies and presets as files: round trips, one-line errors, hostile YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import xslim
from tests.policy.strategies import policies, presets
from xslim import Policy, Preset
from xslim.errors import ConfigError, PresetVersionError, XSlimError
from xslim.policy.decision import Action
from xslim.policy.document import dump_yaml, parse_yaml
from xslim.policy.preset import config_sha256, parse_preset, shipped_presets
from xslim.policy.schedule import actions_before_next_full

VALID = {
    "schema_version": 1,
    "name": "test",
    "model": {"family": "dit", "transformer": "DiTTransformer2DModel", "num_steps": 4},
    "policy": {"controller": {"kind": "dual-threshold", "critical": 0.3}},
}


def changed(key: str, value: object) -> dict[str, object]:
    """The valid preset with one dotted key set."""

    def put(data: dict[str, object], path: list[str]) -> dict[str, object]:
        head, *rest = path
        inner = data.get(head)
        new = put(inner if isinstance(inner, dict) else {}, rest) if rest else value
        return {**data, head: new}

    return put(VALID, key.split("."))


@settings(max_examples=200)
@given(policies)
def test_policies_survive_yaml(policy: Policy) -> None:
    assert Policy.parse(parse_yaml(dump_yaml(policy.to_data()))) == policy


@given(presets)
def test_presets_survive_a_file(tmp_path_factory: pytest.TempPathFactory, preset: Preset) -> None:
    path = tmp_path_factory.getbasetemp() / "preset.yaml"
    xslim.save_preset(preset, path)
    assert xslim.load_preset(path) == preset
    assert xslim.load_preset(str(path)) == preset


def test_off_is_written_and_absent_is_not(tmp_path: Path) -> None:
    preset = parse_preset(changed("policy.controller.max_consecutive_skips", None))
    xslim.save_preset(preset, tmp_path / "p.yaml")
    text = (tmp_path / "p.yaml").read_text()
    assert "max_consecutive_skips: null" in text
    assert "config_sha256" not in text
    assert xslim.load_preset(tmp_path / "p.yaml").policy.controller.max_consecutive_skips is None


def test_lists_and_tuples_are_alike_and_the_attributes_are_the_keys() -> None:
    a = Policy(controller={"kind": "table", "blocks": [[1, 0], [0, 1]]})
    b = Policy(controller={"kind": "table", "blocks": ((1, 0), (0, 1))})
    assert a == b
    assert a.controller.blocks[0] == (1, 0)
    assert Policy.from_pattern("F.", token_ratio=0.2).token.budget == 0.2
    default = Policy.from_pattern("F.")
    assert (default.block.threshold, default.block.start_block, default.block.budget) == (1.5, 3, None)
    assert default.predictor.kind == "hold"
    assert default.signals == ()
    assert (
        Policy.from_pattern("F", block_threshold={"double": 1.5, "single": 10.0}).block.threshold.single == 10
    )


def test_values_are_frozen() -> None:
    policy = Policy.from_pattern("F.")
    with pytest.raises(ValueError, match="frozen"):
        policy.predictor = None


def test_saving_is_whole_or_not_at_all(tmp_path: Path) -> None:
    preset = parse_preset(VALID)
    xslim.save_preset(preset, tmp_path / "new" / "folder" / "p.yaml")
    assert [p.name for p in (tmp_path / "new" / "folder").iterdir()] == ["p.yaml"]
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        xslim.save_preset(preset, tmp_path / "file" / "p.yaml")


# errors: (dotted key, value, words that the line must hold)
MISTAKES = [
    ("polcy", {}, ["polcy", "did you mean 'policy'"]),
    ("policy.tokn", {}, ["policy.tokn", "did you mean 'token'"]),
    ("policy.controller.critcal", 1, ["policy.controller.critcal", "did you mean 'critical'"]),
    ("policy.controller.relief", {"blok": 1}, ["policy.controller.relief.blok", "did you mean 'block'"]),
    ("model.nmu_steps", 4, ["model.nmu_steps", "did you mean 'num_steps'"]),
    ("policy.indicator.signals", {"modul": 1.0}, ["policy.indicator.signals.modul", "modulated_input"]),
    ("policy.controller.critical", "0.3", ["policy.controller.critical", "'0.3'", "number"]),
    ("policy.controller.critical", True, ["policy.controller.critical", "True"]),
    ("policy.controller.critical", -0.1, ["policy.controller.critical", "-0.1", "or equal to 0"]),
    ("policy.controller.critical", float("nan"), ["policy.controller.critical", "nan", "finite"]),
    ("policy.controller.critical", None, ["policy.controller.critical", "None"]),
    ("policy.controller.warning_fraction", 1.5, ["policy.controller.warning_fraction", "1.5", "to 1"]),
    ("policy.controller.warmup", 0, ["policy.controller.warmup", "0"]),
    ("policy.controller.warmup", 2.5, ["policy.controller.warmup", "2.5", "integer"]),
    ("policy.controller.polish", ["blocks"], ["policy.controller.polish", "blocks", "'block' or 'token'"]),
    ("policy.controller.polish", "block", ["policy.controller.polish", "'block'", "a list"]),
    ("policy.controller.kind", "dual", ["policy.controller.kind", "dual", "dual-threshold"]),
    ("policy.controller", {"critical": 1.0}, ["policy.controller.kind", "dual-threshold", "interval"]),
    ("policy.controller", {"kind": "pattern", "steps": "FXF"}, ["controller.steps", "'X'", "F (full)"]),
    ("policy.controller", {"kind": "pattern"}, ["policy.controller.steps", "missing"]),
    ("policy.controller", {"kind": "table", "blocks": [[1], [1, 0]]}, ["policy.controller.blocks", "[1, 2]"]),
    ("policy.controller", {"kind": "table", "blocks": [[2]]}, ["policy.controller.blocks.0.0", "2", "to 1"]),
    ("policy.controller", 7, ["policy.controller", "7", "a mapping"]),
    ("policy.token", [1], ["policy.token", "[1]", "a mapping"]),
    ("policy.block", {"budget": 0.0}, ["policy.block.budget", "0.0", "greater than 0"]),
    ("policy.block", {"budget": 0.5, "threshold": 1.0}, ["policy.block", "not both"]),
    ("policy.block", {"threshold": {"double": 1.0}}, ["policy.block.threshold.single", "missing"]),
    ("policy.block", {"threshold": {"doubel": 1.0}}, ["policy.block.threshold."]),
    ("policy.block", {"threshold": "high"}, ["policy.block.threshold", "'high'", "number"]),
    ("policy.token.budget", 2, ["policy.token.budget", "2", "to 1"]),
    ("policy.predictor.kind", "neweton", ["policy.predictor.kind", "neweton", "'hold', 'newton'"]),
    ("policy.predictor.order", 5, ["policy.predictor.order", "5", "to 4"]),
    ("policy.guards.sigma_windows", [[1.0]], ["policy.guards.sigma_windows.0"]),
    ("policy.batch", "shared", ["policy.batch", "shared", "per-sample"]),
    ("policy.indicator", {"signals": {"modulated_input": 0.0}}, ["policy.indicator.signals", "above 0"]),
    ("policy.indicator", {"signals": {"step_table": 1.0}}, ["policy.indicator.calibration.step_table"]),
    ("policy.indicator.calibration", {"modulated_input": {"x": [1, 1], "y": [0, 1]}}, ["modulated_input.x"]),
    ("model.num_steps", 0, ["model.num_steps", "0"]),
    ("model.num_steps", "4", ["model.num_steps", "'4'", "integer"]),
    ("model", {}, ["model.", "missing"]),
    ("name", "", ["name", "''"]),
    ("schema_version", 0, ["schema_version", "0"]),
    ("schema_version", "1", ["schema_version", "'1'"]),
]  # fmt: skip


def error_of(tmp_path: Path, text: str) -> str:
    path = tmp_path / "bad.yaml"
    path.write_bytes(text.encode())
    with pytest.raises(XSlimError) as caught:
        xslim.load_preset(path)
    line = str(caught.value)
    assert line.startswith(f"{path}: ")
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert len(line) <= 1_000
    return line.removeprefix(f"{path}: ")


@pytest.mark.parametrize(("key", "value", "words"), MISTAKES, ids=[f"{k}={v}" for k, v, _ in MISTAKES])
def test_a_mistake_names_file_key_and_value_in_one_line(
    tmp_path: Path, key: str, value: object, words: list[str]
) -> None:
    line = error_of(tmp_path, dump_yaml(changed(key, value)))
    assert all(word in line for word in words), line


def test_the_mistakes_as_text(tmp_path: Path, golden) -> None:
    lines = [
        f"{key} = {value!r}\n    {error_of(tmp_path, dump_yaml(changed(key, value)))}\n"
        for key, value, _ in MISTAKES
    ]
    golden("errors.txt", "".join(lines))


def test_python_callers_get_the_same_errors() -> None:
    with pytest.raises(ConfigError, match=r"^controller\.critical: got -1"):
        Policy(controller={"kind": "dual-threshold", "critical": -1})
    with pytest.raises(ConfigError, match="did you mean 'token'"):
        Policy(controller={"kind": "interval", "every": 3}, tokens={})
    with pytest.raises(ValueError, match=r"controller\.steps"):
        Policy.from_pattern("F x")


def test_a_newer_schema_is_its_own_error(tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text("schema_version: 2\nfuture: {}\n")
    with pytest.raises(PresetVersionError, match=r"new\.yaml: schema_version: got 2; .*upgrade xslim"):
        xslim.load_preset(path)


def test_missing_files_and_names(tmp_path: Path) -> None:
    for name in (tmp_path / "none.yaml", tmp_path, "none/such", "x" * 5_000, "a\0b", "a\0b.yaml", ""):
        with pytest.raises(ConfigError) as caught:
            xslim.load_preset(name)
        assert len(str(caught.value).splitlines()) == 1


def test_shipped_presets_load() -> None:
    for name in shipped_presets():
        preset = xslim.load_preset(name)
        assert preset.name == name
        assert Preset.parse(parse_yaml(dump_yaml(preset.to_data()))) == preset


HOSTILE = {
    "object": "!!python/object/apply:os.system ['touch MARKER']",
    "new": "!!python/object/new:subprocess.check_output [['touch', 'MARKER']]",
    "name": "name: !!python/name:os.system",
    "module": "!!python/module:this",
    "tuple": "!!python/tuple [1, 2]",
    "own tag": "name: !run touch MARKER",
    "set": "name: !!set {a, b}",
    "binary": "name: !!binary aGVsbG8=",
    "date": "provenance: {when: !!timestamp 2001-01-01}",
    "recursive": "&a [*a]",
    "recursive mapping": "&a {name: *a}",
    "laughs": "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]",
    "merge": "<<: {name: a}\nname: b",
    "deep lists": "[" * 5_000 + "]" * 5_000,
    "deep mappings": "{a: " * 5_000 + "}" * 5_000,
    "deep blocks": "".join("  " * i + "a:\n" for i in range(500)),
    "deep sequence": "- " * 3_000 + "a",
    "many values": "[" + "1," * 210_000 + "]",
    "huge number": "name: " + "9" * 100_000,
    "huge float": "policy: {controller: {kind: dual-threshold, critical: 1e999}}",
    "huge text": "name: " + "x" * 3_000_000,
    "huge key": "x" * 3_000_000 + ": 1",
    "huge file": "#" * (5 * 2**20),
    "sexagesimal": "name: 1" + ":59" * 20_000,
    "control": "name: a\x00b",
    "bell": "na\x07me: b",
    "escape": 'name: "\\e[31m"\n"a\\nb\\e[2J": 1',
    "line separator": '"a\\Lb": 1',
    "newline in value": 'schema_version: "a\\nb\\rc"',
    "duplicate": "name: a\nname: b",
    "duplicate inside": "model: {family: a, family: b}",
    "list as key": "? [a]\n: b",
    "mapping as key": "? {a: b}\n: c",
    "number as key": "1: b",
    "null as key": "~: b",
    "two documents": "a: 1\n---\nb: 2",
    "empty": "",
    "comment": "# nothing",
    "list": "- a",
    "text": "hello",
    "unclosed": "{a: [",
    "tab": "a:\n\t- b",
    "bad escape": '"\\q"',
    "percent": "%YAML 9.9\n---\na: 1",
    "surrogate": '"\\ud800": 1',
    "not a scalar": "schema_version: [1]",
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "many values" else n for n in HOSTILE]
)
def test_hostile_yaml_is_one_error_and_runs_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error_of(tmp_path, HOSTILE[name])
    assert [p.name for p in tmp_path.iterdir()] == ["bad.yaml"]


@pytest.mark.parametrize("raw", [b"\xff\xfe\x00", b"name: \xc3\x28", b"\x80\x81", "name: a".encode("utf-16")])
def test_bytes_that_are_no_utf8(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "bad.yaml").write_bytes(raw)
    with pytest.raises(ConfigError, match="UTF-8"):
        xslim.load_preset(tmp_path / "bad.yaml")


@given(st.text(max_size=60) | st.text("{}[]:,-&*!|>'\"%@`#? \n\tab1", max_size=60))
def test_any_text_is_data_or_one_error(text: str) -> None:
    try:
        parse_preset(parse_yaml(text, "f.yaml"), "f.yaml")
    except XSlimError as error:
        line = str(error)
    else:
        line = "read"
    assert len(line.splitlines()) == 1
    assert line.isprintable()


def test_loading_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text(dump_yaml(VALID))
    code = (
        "import sys, xslim\n"
        f"preset = xslim.load_preset({str(tmp_path / 'p.yaml')!r})\n"
        "xslim.Policy.from_pattern('F.')\n"
        "xslim.save_preset(preset, sys.argv[1])\n"
        "heavy = {'torch', 'diffusers', 'ray', 'optuna', 'mlflow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "q.yaml")], check=True)


def test_a_config_hash_ignores_private_keys_and_order() -> None:
    a = config_sha256({"a": 1, "b": (1, 2), "_class_name": "X", "_diffusers_version": "0.42"})
    assert a == config_sha256({"b": [1, 2], "a": 1})
    assert a != config_sha256({"b": [1, 2], "a": 2})


@pytest.mark.parametrize("name", ["timesteps", "sigmas"])
def test_a_list_of_another_length_than_the_steps_is_refused(name: str) -> None:
    model = {"family": "dit", "transformer": "DiT", "num_steps": 3, name: [2.0, 1.0]}
    policy = {"controller": {"kind": "pattern", "steps": "F.F"}}
    with pytest.raises(ConfigError, match=rf"model\.{name}: 2 values; give one for each of 3 steps"):
        Preset(name="a", model=model, policy=policy)


PARTS = {  # what every policy's data has held from the first version on
    "indicator": {"signals": {"modulated_input": 1.0}, "calibration": {}},
    "block": {"budget": 0.5, "start_block": 3},
    "token": {"budget": 0.5, "age_weight": 0.25},
    "predictor": {"kind": "hold", "order": 1},
    "guards": {"sigma_windows": [], "on_nonfinite": "full"},
    "batch": "per-sample",
}
CONTROLLERS = (
    {
        "kind": "dual-threshold",
        "critical": 0.3,
        "warning_fraction": 0.6,
        "warmup": 3,
        "cooldown": 1,
        "max_consecutive_skips": 6,
        "polish": ["block", "token"],
        "relief": {"block": 0.5, "token": 0.5},
    },
    {"kind": "interval", "every": 3, "warmup": 1, "cooldown": 0},
)


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: c["kind"])
def test_keys_that_came_later_leave_older_data_as_it_was(controller: dict[str, object]) -> None:
    """Stored trials and references are found by hashes of this data."""
    assert Policy(controller=controller).to_data() == {"controller": controller, **PARTS}


def test_a_later_key_is_written_where_it_is_not_the_default() -> None:
    for word, written in (
        ("sum", PARTS["indicator"]),
        ("latest", {**PARTS["indicator"], "accumulate": "latest"}),
    ):
        policy = Policy(controller=CONTROLLERS[0], indicator={"accumulate": word})
        assert policy.to_data()["indicator"] == written


def test_the_published_rules_of_the_docs_are_policies() -> None:
    text = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    block = text.partition("## Published rules as policies")[2].partition("```yaml")[2].partition("```")[0]
    rules = {name: Policy.parse(data) for name, data in parse_yaml(block).items()}
    assert len(rules) == 8
    for policy in rules.values():
        assert Policy.parse(parse_yaml(dump_yaml(policy.to_data()))) == policy
    kept = {name: actions_before_next_full(policy, 18, 50) for name, policy in rules.items()}
    assert Action.BLOCK in kept["first-block-cache"] & kept["dbcache"]
    assert kept["teacache"] == kept["magcache"] == kept["easycache"] == {Action.SKIP}
    assert kept["duca"] == {Action.SKIP, Action.TOKEN}
