"""The built wheel, installed into an empty folder: what a user gets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from xslim.policy.preset import shipped_presets

ROOT = Path(__file__).parent.parent
SOURCES = ("xslim", "autotune", "pyproject.toml", "README.md", "LICENSE")
PRESETS = ("dit-digits/balanced", "dit-digits/fast", "dit-digits/high")

# only the wheel's folder and the dependencies are importable: neither the repository nor its editable install
CHECK = """
import json, sys
from importlib import resources

sys.path[:] = [p for p in sys.path if p != sys.argv[2]]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
sys.path.insert(0, sys.argv[1])
import xslim, autotune, autotune.cli.main
from xslim.policy.preset import shipped_presets

presets = {name: xslim.load_preset(name) for name in shipped_presets()}
print(json.dumps({
    "files": [xslim.__file__, autotune.__file__],
    "typed": [(resources.files(package) / "py.typed").is_file() for package in ("xslim", "autotune")],
    "presets": {name: preset.name for name, preset in presets.items()},
    "heavy": [name for name in ("torch", "ray", "optuna", "mlflow") if name in sys.modules],
}))
"""


def run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of the sources: building leaves files beside them."""
    folder = tmp_path_factory.mktemp("package")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    # what lies beside the packages in the repository must not get into the wheel
    for name in ("experiments", "tests", "benchmarks"):
        (source / name).mkdir()
        (source / name / "__init__.py").touch()
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", source, cwd=folder)
    (built,) = (folder / "dist").iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    target = wheel.parent.parent / "installed"
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check")
    run(*pip, "--target", target, wheel, cwd=wheel.parent)
    return target


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"xslim", "autotune"}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    sources = {
        str(path.relative_to(ROOT))
        for package in ("xslim", "autotune")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == sources


def test_a_user_gets_types_and_presets_without_the_repository(installed: Path, tmp_path: Path) -> None:
    found = json.loads(run("-c", CHECK, installed, ROOT, cwd=tmp_path))
    assert all(Path(file).is_relative_to(installed) for file in found["files"])
    assert found["typed"] == [True, True]
    assert found["presets"] == {name: name for name in shipped_presets()}
    assert found["heavy"] == []


def test_the_presets_of_the_reference_model_are_shipped() -> None:
    assert set(PRESETS) <= set(shipped_presets())


def test_the_command_is_installed(installed: Path) -> None:
    (entry,) = installed.glob("*.dist-info/entry_points.txt")
    assert "autotune = autotune.cli.main:main" in entry.read_text()
