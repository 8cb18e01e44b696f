"""Layers, imports and sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 350
HEAVY = ("torch", "diffusers", "transformers", "ray", "optuna", "mlflow", "sklearn", "matplotlib")


def imported_after(code: str) -> set[str]:
    """Which of the heavy libraries are loaded after some code, in a fresh interpreter."""
    check = f"import sys; print(*[n for n in {HEAVY!r} if n in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", f"{code}\n{check}"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return set(run.stdout.split())


def test_import_contracts_hold() -> None:
    """In a process of its own: the linter reconfigures logging, which other tests read."""
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import xslim",
        "import xslim; xslim.Policy.from_pattern('F..F'); xslim.load_preset; xslim.Preset; xslim.XSlimError",
        "import xslim.policy.controller, xslim.policy.schedule, xslim.policy.selection, xslim.policy.trace",
    ],
)
def test_policy_tools_start_without_torch(code: str) -> None:
    assert imported_after(code) == set()


def test_the_runtime_loads_nothing_of_the_tuner() -> None:
    assert imported_after("import xslim; xslim.attach; xslim.Session") <= {
        "torch",
        "diffusers",
        "transformers",
    }


def test_the_public_names() -> None:
    import xslim

    assert len(xslim.__all__) <= 10
    for name in xslim.__all__:
        assert getattr(xslim, name) is not None
    with pytest.raises(AttributeError, match="atach"):
        xslim.atach  # noqa: B018


@pytest.mark.parametrize("package", ["xslim", "autotune"])
def test_files_are_short(package: str) -> None:
    lines = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / package).rglob("*.py")
    }
    assert lines
    assert {path: n for path, n in lines.items() if n > MAX_LINES} == {}


def test_diffusers_hooks_are_imported_in_one_file() -> None:
    users = [
        path.name
        for path in (ROOT / "xslim").rglob("*.py")
        if "diffusers.hooks" in path.read_text(encoding="utf-8")
    ]
    assert users == ["hooks.py"]
