"""The search loop when a candidate fails between its parts, or the search between two results."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autotune.scoring.doubles import FormulaEvaluator
from autotune.search.executor import LocalExecutor, TaskResult
from autotune.search.study import SearchLoop
from tests.search.support import Search

CHANGES = {"search.trials": 8, "search.warm_starts": 6, "search.neighbours": 0.0}


def test_parts_of_a_failed_candidate_are_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its second part fails while the third and fourth wait."""
    evaluate, later = FormulaEvaluator.evaluate, []

    def watched(self: FormulaEvaluator, policy: Any, cases: Any, rounds: int, *rest: Any) -> Any:
        if rounds == 0:
            later.append(policy)
            if len(later) == 1:
                raise RuntimeError("on purpose")
        return evaluate(self, policy, cases, rounds, *rest)

    monkeypatch.setattr(FormulaEvaluator, "evaluate", watched)
    search = Search(tmp_path, {**CHANGES, "cases.search": 16})
    trials = search.run().summary["trials"]
    assert (trials["complete"], trials["failed"]) == (8, 1)
    assert later[0] not in later[1:], "the parts that waited were dropped"


class Together(LocalExecutor):
    """Three workers that end together."""

    slots = 3

    def wait(self, timeout_s: float) -> Sequence[TaskResult]:
        found: list[TaskResult] = []
        while self._queue:
            found += super().wait(timeout_s)
        return found


def test_results_in_hand_are_kept_when_the_search_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search, take, held = Search(tmp_path, CHANGES), SearchLoop._take, []

    def breaks(self: SearchLoop, tag: Any, result: TaskResult) -> None:
        if len(self._results) >= 2:
            held.extend(self._results)
            raise KeyboardInterrupt
        take(self, tag, result)

    with monkeypatch.context() as patch:
        patch.setattr(SearchLoop, "_take", breaks)
        patch.setattr(SearchLoop, "_send_or_ask", _all_at_once)
        with pytest.raises(KeyboardInterrupt):
            search.run(executor=Together())
    kept = search.rows
    assert len(kept) == len(held) == 2
    search.run(resume=True)
    assert sum(row.trial in {one.trial for one in kept} for row in search.rows) == 2, (
        "they are not drawn again"
    )
    assert {row.trial for row in kept} <= {t.number for t in search.trials if t.state.name == "COMPLETE"}


def _all_at_once(self: SearchLoop) -> bool:
    """Ask for all workers before looking at results, as when they end while the driver is busy."""
    asked = False
    while self.dispatcher.free and self._wanted > 0:
        self._ask()
        self._send(*self._parts.popleft())
        asked = True
    return asked
