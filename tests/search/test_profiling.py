"""A profile that is interrupted goes on where it was, and costs no drawing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autotune.scoring.case import Case
from autotune.scoring.doubles import FailingEvaluator, FormulaEvaluator
from autotune.scoring.evaluator import Evaluator
from autotune.scoring.profile import Profile
from autotune.scoring.sensitivity import probe_steps
from autotune.search.dispatch import Dispatcher, RunBrokenError
from autotune.search.executor import LocalExecutor
from autotune.search.profiling import DONE, PART, Profiling
from autotune.search.store import RunFolder
from tests.search.support import STEPS, never

CASES = tuple(Case(i, i) for i in range(4))


@dataclass(frozen=True)
class Counting(FailingEvaluator):
    """Notes what is drawn; fails to probe one step."""

    drawn: list[int | str] = field(default_factory=list)
    broken: int | None = None

    def profile(self, cases: Sequence[Case]) -> Profile:
        self.drawn.append("profile")
        return self.inner.profile(cases)

    def probe(self, cases: Sequence[Case], step: int) -> float:
        assert len(cases) == 2
        if step == self.broken:
            raise RuntimeError("no memory")
        self.drawn.append(step)
        return self.inner.probe(cases, step)

    def build(self) -> Evaluator:
        return self


def take(evaluator: Counting, folder: Path, stop_after: int = 1000) -> tuple[Profile | None, list[str]]:
    executor, told = LocalExecutor(), []
    executor.start(evaluator)
    profiling = Profiling(
        Dispatcher(executor),
        RunFolder(folder),
        CASES,
        2,
        lambda: len(evaluator.drawn) >= stop_after,
        told.append,
    )
    return profiling.take(), told


def test_an_interrupted_profile_goes_on(tmp_path: Path) -> None:
    first = Counting(FormulaEvaluator(STEPS), never)
    assert take(first, tmp_path, stop_after=4) == (None, [f"profile: {i}/11 steps probed" for i in (1, 2, 3)])
    assert first.drawn == ["profile", 1, 2, 3]
    second = Counting(FormulaEvaluator(STEPS), never)
    whole, _ = take(second, tmp_path)
    assert whole is not None
    assert second.drawn == list(probe_steps(STEPS))[3:]
    assert not (tmp_path / PART).exists()
    third = Counting(FormulaEvaluator(STEPS), never)
    again, _ = take(third, tmp_path)
    assert third.drawn == []
    assert again is not None
    assert again.to_json() == whole.to_json() == (tmp_path / DONE).read_text()


def test_a_probe_that_fails_ends_the_run_and_keeps_the_others(tmp_path: Path) -> None:
    with pytest.raises(RunBrokenError, match="a probe of the profile failed: RuntimeError: no memory"):
        take(Counting(FormulaEvaluator(STEPS), never, broken=3), tmp_path)
    second = Counting(FormulaEvaluator(STEPS), never)
    take(second, tmp_path)
    assert second.drawn == list(probe_steps(STEPS))[2:]
