"""`autotune validate`: every YAML of ours, every fault in one line, and schemas for editors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml

from tests.cli.support import ROOT, Result, command
from tests.golden.test_golden import preset
from tests.search.support import EXPERIMENT, SPACE, merged, write_files
from xslim.policy.document import dump_yaml

KINDS = {"experiment", "policy", "preset", "recipe", "search-space"}
YAMLS = sorted(
    path
    for folder in ("experiments", "search_spaces", "xslim/policy/presets")
    for path in (ROOT / folder).rglob("*.yaml")
)
POLICY = {"controller": {"kind": "pattern", "steps": "FF..B..F"}, "predictor": {"kind": "newton", "order": 1}}


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def kind_of(path: Path) -> str:
    """What a file of the repository has to be, by its place."""
    if path.parent.name == "methods":
        return "recipe"
    top = path.relative_to(ROOT).parts[0]
    return {"experiments": "experiment", "search_spaces": "search-space", "xslim": "preset"}[top]


def documents() -> Iterator[tuple[str, object]]:
    """One document of every kind that no file of the repository shows."""
    yield "policy", POLICY
    yield "preset", preset().to_data()
    yield "search-space", SPACE
    yield "search-space", {"schema_version": 1, **SPACE["families"]["online"]}
    yield "experiment", EXPERIMENT


def test_the_repository_holds_files() -> None:
    assert {kind_of(path) for path in YAMLS} >= {"experiment", "recipe", "search-space"}


@pytest.mark.parametrize("path", YAMLS, ids=ids)
def test_every_file_of_the_repository_is_valid(path: Path, autotune: Callable[..., Result]) -> None:
    result = autotune("validate", path)
    assert (result.status, result.err) == (0, "")
    assert result.out == f"{path}: valid {kind_of(path)}\n"


def test_what_a_file_is_comes_from_its_keys(tmp_path: Path, autotune: Callable[..., Result]) -> None:
    write_files(tmp_path)
    for kind, data in documents():
        path = tmp_path / "document.yaml"
        path.write_text(dump_yaml(data))
        assert autotune("validate", path).out == f"{path}: valid {kind}\n"


def test_every_file_gets_a_line(tmp_path: Path, autotune: Callable[..., Result]) -> None:
    good = write_files(tmp_path)
    (tmp_path / "bad.yaml").write_text("controller: {kind: pattern, steps: FXF}")
    result = autotune("validate", tmp_path / "bad.yaml", good, tmp_path / "gone.yaml")
    assert result.status == 2
    assert result.out == f"{good}: valid experiment\n"
    first, second = result.err.splitlines()
    assert first.startswith(f"autotune: {tmp_path}/bad.yaml: controller.steps: got the letter 'X'")
    assert second.startswith(f"autotune: {tmp_path}/gone.yaml: cannot read")


BAD = {
    "unknown key": dump_yaml(merged(EXPERIMENT, {"search.trails": 3})),
    "wrong type": dump_yaml(merged(EXPERIMENT, {"search.trials": "3"})),
    "out of range": dump_yaml(merged(EXPERIMENT, {"cases.search": 0})),
    "unknown objective": dump_yaml(merged(EXPERIMENT, {"objectives": ["latency", "speed"]})),
    "unknown bound": dump_yaml(merged(EXPERIMENT, {"bounds": {"psnr_p50": {"min": 1.0}}})),
    "both ends": dump_yaml(merged(EXPERIMENT, {"bounds": {"psnr": {"min": 1.0, "max": 2.0}}})),
    "no space": dump_yaml(merged(EXPERIMENT, {"search_space": "gone.yaml"})),
    "another document": "tokens: 3",
    "newer preset": dump_yaml({**preset().to_data(), "schema_version": 99}),
    "no policy key": dump_yaml({**POLICY, "tokn": {}}),
    "choice at fault": dump_yaml(
        merged(SPACE, {"families.online.params": {"batch": {"type": "categorical", "choices": ["all"]}}})
    ),
    "a list": "- 1\n- 2",
    "empty": "",
    "no YAML": "a: [1, 2",
    "tags": "policy: !!python/object/apply:os.system [true]",
    "aliases": "policy: &a [1]\nparams: *a",
    "repeated key": "policy: 1\npolicy: 2",
    "a date": "policy: 2026-01-01",
    "number as key": "1: 2\npolicy: {}",
    "control characters": 'controller: {kind: "pat\\x1b[31m\\ntern"}',
}


def test_faults_are_one_line_each(
    tmp_path: Path,
    autotune: Callable[..., Result],
    golden: Callable[[str, str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    lines = []
    for title, text in BAD.items():
        Path("bad.yaml").write_text(text)
        result = autotune("validate", "bad.yaml")
        assert result.status == 2, title
        line = result.one_line()
        assert line[:-1].isprintable(), title
        lines.append(f"{title}\n    {line}")
    golden("validate.txt", "".join(lines))


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe\x00",
        b"[" * 5000,
        b"a: " + b"9" * 5000,
        b"policy: {" + b"a: {" * 100,
        b"x" * (5 * 2**20),
        b"\x00",
    ],
    ids=["not UTF-8", "deep", "digits", "nested", "large", "NUL"],
)
def test_hostile_bytes_are_one_line(raw: bytes, tmp_path: Path, autotune: Callable[..., Result]) -> None:
    (tmp_path / "bad.yaml").write_bytes(raw)
    result = autotune("validate", tmp_path / "bad.yaml")
    assert result.status == 2
    assert len(result.one_line()) < 1100


def test_nothing_to_check_is_a_fault(autotune: Callable[..., Result]) -> None:
    result = autotune("validate")
    assert result.status == 2
    assert "give a file to check" in result.one_line()


def test_a_folder_is_no_file(tmp_path: Path, autotune: Callable[..., Result]) -> None:
    result = autotune("validate", tmp_path)
    assert result.status == 2
    assert "is a directory" in result.one_line()


@pytest.fixture
def schemas(tmp_path: Path, autotune: Callable[..., Result]) -> dict[str, dict[str, object]]:
    folder = tmp_path / "schemas"
    result = autotune("validate", "--schema", folder)
    assert (result.status, result.err) == (0, "")
    assert sorted(result.out.split()) == sorted(str(path) for path in folder.iterdir())
    return {path.name.removesuffix(".schema.json"): json.loads(path.read_text()) for path in folder.iterdir()}


def test_schemas_accept_what_we_accept(schemas: dict[str, dict[str, object]]) -> None:
    assert set(schemas) == KINDS
    found = [(kind_of(path), yaml.safe_load(path.read_text())) for path in YAMLS]
    for schema in schemas.values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for kind, data in [*documents(), *found]:
        if kind == "search-space" and "families" not in data:
            continue  # the short form is read, editors are told the long one
        jsonschema.Draft202012Validator(schemas[kind]).validate(data)


def test_schemas_refuse_what_we_refuse(schemas: dict[str, dict[str, object]]) -> None:
    for kind, data in (
        ("policy", {**POLICY, "tokn": {}}),
        ("policy", {"controller": {"kind": "patern", "steps": "F"}}),
        ("preset", {**preset().to_data(), "schema_version": 99}),
        ("search-space", {"families": {}}),
        ("experiment", merged(EXPERIMENT, {"search.trails": 3})),
        ("experiment", merged(EXPERIMENT, {"cases.search": 1})),
        ("experiment", merged(EXPERIMENT, {"objectives": ["latency"]})),
    ):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, schemas[kind])


def test_schemas_that_cannot_be_written_are_a_fault(tmp_path: Path, autotune: Callable[..., Result]) -> None:
    (tmp_path / "file").write_text("")
    result = autotune("validate", "--schema", tmp_path / "file")
    assert result.status == 2
    assert "file" in result.one_line()


@pytest.mark.parametrize(
    "arguments", [["--help"], ["search", "--help"], ["validate", "search_spaces/dit-digits.yaml"]]
)
def test_help_and_validate_load_nothing_heavy(arguments: list[str]) -> None:
    heavy = ("torch", "diffusers", "transformers", "ray", "mlflow", "optuna", "sklearn", "matplotlib")
    code = (
        "import sys\nfrom autotune.cli import main\n"
        f"sys.argv = ['autotune', *{arguments!r}]\n"
        "try:\n    main.main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('loaded:', *[name for name in {heavy!r} if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert run.stdout.splitlines()[-1].split() == ["loaded:"]


def test_the_installed_command_is_this_one() -> None:
    result = command("validate", "search_spaces/dit-digits.yaml", "gone.yaml")
    assert (result.status, result.out) == (2, "search_spaces/dit-digits.yaml: valid search-space\n")
    assert result.err == "autotune: gone.yaml: cannot read: no such file or directory; check the path\n"
