"""The command line in this process and in its own; the search's evaluator may be a formula."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from autotune.scoring.doubles import FormulaEvaluator
from autotune.scoring.evaluator import Evaluator
from tests.search.support import STEPS
from xslim.policy.policy import Policy

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Result:
    """What a command left: exit status, stdout and stderr."""

    status: int
    out: str
    err: str

    def one_line(self) -> str:
        """Stderr, which has to be one line of ours."""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("autotune: "), self.err
        assert "Traceback" not in self.err
        assert self.out == ""
        return self.err


@dataclass(frozen=True)
class ScriptedFactory:
    """Builds a formula evaluator that takes its time.

    Attributes:
        delay_s: seconds an evaluation takes.
        mark: file that gets a letter for each evaluation.
    """

    delay_s: float = 0.0
    mark: str | None = None

    def build(self) -> Evaluator:
        return ScriptedEvaluator(STEPS, self)


@dataclass(frozen=True, slots=True)
class ScriptedEvaluator(FormulaEvaluator):
    script: ScriptedFactory = field(default_factory=ScriptedFactory)

    def actions(self, policy: Policy) -> str:
        if self.script.mark is not None:
            with Path(self.script.mark).open("a") as file:
                file.write("x")
        time.sleep(self.script.delay_s)
        return super(ScriptedEvaluator, self).actions(policy)


def command(*arguments: str, timeout_s: float = 100) -> Result:
    """Run `autotune` in a process of its own, in the repository's root."""
    run = subprocess.run(
        [sys.executable, "-m", "autotune.cli.main", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=timeout_s,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return Result(run.returncode, run.stdout, run.stderr)


def scripted(*arguments: str, delay_s: float = 0.0, mark: Path | None = None) -> subprocess.Popen[str]:
    """Start `autotune` with a scripted evaluator in a process of its own."""
    factory = f"ScriptedFactory({delay_s}, {None if mark is None else str(mark)!r})"
    code = (
        "import autotune.search.run as run, autotune.cli.main as main\n"
        "from tests.cli.support import ScriptedFactory\n"
        f"run.evaluator_spec = lambda *_: {factory}\n"
        "main.main()\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
